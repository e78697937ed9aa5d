#include "control/graph/drain_set.hpp"

#include <algorithm>

namespace tidemark {
namespace {

Task<Graph::DrainGuard> drain(Graph& graph, const std::string& name) {
  BlockNode* node = co_await unwrap(graph.lookup(name));
  co_return co_await graph.drain_within(*node);
}

Task<> let_go(Graph::DrainGuard& guard) {
  const Graph::DrainGuard ended = std::move(guard);
  co_return;
}

}  // namespace

Task<> DrainSet::add(std::vector<std::string> nodes) {
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
}

}  // namespace tidemark
