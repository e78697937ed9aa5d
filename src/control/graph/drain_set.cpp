#include "control/graph/drain_set.hpp"

#include <algorithm>

namespace tidemark {
namespace {

Task<Graph::DrainGuard> drain(Graph& graph, const std::string& name) {
  BlockNode* node = co_await unwrap(graph.lookup(name));
  co_return co_await graph.drain_within(*node);
}

template <class Guard>
Task<> let_go(Guard& guard) {
  const Guard ended = std::move(guard);
  co_return;
}

}  // namespace

Task<> DrainSet::take_turn(Place& place) {
  const auto is_it = [&](const Turn& turn) { return turn.place == &place; };
  if (std::any_of(turns_.begin(), turns_.end(), is_it)) co_return;
  Mutex::Guard guard = co_await homes_.at(place, place.graph.bitmap_changes().lock());
  turns_.push_back(Turn{&place, std::move(guard)});
}

// Guests go on while another's turn is waited for.
Task<> DrainSet::add(std::vector<std::string> nodes) {
  for (const std::string& node : nodes) {
    Place* place = co_await homes_.find(node);
    if (place) co_await take_turn(*place);
  }
  for (auto name = nodes.begin(); name != nodes.end(); ++name) {
    const std::string& node = *name;
    Place* place = co_await homes_.find(node);
    if (!place || std::find(nodes.begin(), name, node) != name) continue;
    Graph::DrainGuard guard = co_await homes_.at(*place, drain(place->graph, node));
    held_.push_back(Held{place, std::move(guard)});
  }
}

Task<> DrainSet::release() {
  for (Held& held : held_) co_await homes_.at(*held.place, let_go(held.guard));
  held_.clear();
  for (Turn& turn : turns_) co_await homes_.at(*turn.place, let_go(turn.guard));
  turns_.clear();
}

}  // namespace tidemark
