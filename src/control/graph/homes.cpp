#include "control/graph/homes.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace tidemark {
namespace {

// What is done at a place.

Task<bool> has(Graph& graph, const std::string& node) { co_return graph.find(node) != nullptr; }

Task<> check_movable(Graph& graph, const std::string& node) {
  BlockNode* found = co_await unwrap(graph.lookup(node));
  co_await unwrap(graph.check_movable(*found));
}

Task<NodeList> take_out(Graph& graph, const std::string& node) {
  BlockNode* found = co_await unwrap(graph.lookup(node));
  co_return co_await graph.take_out(*found);
}

Task<> put_in(Graph& graph, NodeList nodes) {
  graph.put_in(std::move(nodes));
  co_return;
}

Task<std::vector<std::string>> names_in(Graph& graph) {
  std::vector<std::string> names;
  for (const auto& node : graph.nodes()) names.push_back(node->name());
  co_return std::move(names);
}

Task<bool> has_left_behind(Graph& graph) { co_return graph.left_behind().count() != 0; }

Task<bool> depends_on(Graph& graph, const Reactor& reactor) {
  for (const auto& node : graph.nodes())
    if (node->driver().bound_to() == &reactor) co_return true;
  co_return false;
}

}  // namespace

std::vector<Place*> Homes::all() noexcept {
  std::vector<Place*> places{&main_};
  for (auto& thread : threads_) places.push_back(thread.get());
  return places;
}

Place* Homes::find_thread(std::string_view id) noexcept {
  for (auto& thread : threads_)
    if (thread->id == id) return thread.get();
  return nullptr;
}

Result<> Homes::add_thread(std::string id, const ThreadOptions& options) {
  auto backend = make_backend_(options);
  if (!backend) return backend.error().with_context(fmt::format("iothread '{}'", id));
  auto thread = ReactorThread::start(*std::move(backend), "iothread " + id);
  if (!thread) return thread.error().with_context(fmt::format("iothread '{}'", id));
  threads_.push_back(std::make_unique<Place>(std::move(id), *std::move(thread), main_.graph));
  return {};
}

Task<> Homes::remove_thread(std::string id) {
  Place& place = *find_thread(id);
  for (Place* other : all()) {
    const bool depends = co_await at(*other, depends_on(other->graph, place.reactor));
    if (depends) co_await Error(Errc::busy, fmt::format("a node's connection is on iothread '{}'", id));
  }
  const bool unfinished = co_await at(place, has_left_behind(place.graph));
  if (unfinished) co_await Error(Errc::busy, fmt::format("an operation on iothread '{}' has not ended; try again later", id));
  const std::vector<std::string> names = co_await at(place, names_in(place.graph));
  for (const std::string& name : names) co_await move(name, main_);
  const std::vector<std::string> left = co_await at(place, names_in(place.graph));
  if (!left.empty()) co_await Error(Errc::busy, fmt::format("node '{}' is on iothread '{}'", left.front(), id));
  std::erase_if(threads_, [&](const auto& thread) { return thread.get() == &place; });
}

Task<> Homes::unpin() {
  for (Place* place : all())
    if (place->graph.has_pins()) co_await at(*place, place->graph.unpin());
}

Task<> Homes::close_all() {
  Result<> first;
  for (Place* place : all()) {
    auto closed = co_await at(*place, place->graph.close_all()).result();
    if (first && !closed) first = closed;
  }
  co_await unwrap(first);
}

Task<Place*> Homes::find(std::string node) {
  for (Place* place : all()) {
    const bool here = co_await at(*place, has(place->graph, node));
    if (here) co_return place;
  }
  co_return nullptr;
}

Task<Place*> Homes::lookup(std::string node) {
  Place* place = co_await find(node);
  if (!place) co_await unwrap(main_.graph.lookup(node));
  co_return place;
}

Task<> Homes::check_free_elsewhere(std::vector<std::string> names, const Place& place) {
  for (const std::string& name : names) {
    const Place* taken = co_await find(name);
    if (taken && taken != &place)
      co_await Error(Errc::exists, fmt::format("Duplicate nodes with node-name='{}'", name));
  }
}

Task<> Homes::move(std::string node, Place& to) {
  Place* from = co_await find(node);
  if (!from || from == &to) co_return;           // gone meanwhile, or come along with another
  NodeList nodes = co_await at(*from, take_out(from->graph, node));
  co_await at(to, put_in(to.graph, std::move(nodes)));
}

Task<> Homes::move_all(const std::vector<Found>& nodes, Place& to) {
  for (const Found& found : nodes)
    if (found.place != &to) co_await at(*found.place, check_movable(found.place->graph, found.node));
  for (const Found& found : nodes) co_await move(found.node, to);
}

Task<Place*> Homes::gather(std::vector<std::string> nodes) {
  std::vector<Found> found;
  for (const std::string& node : nodes) {
    Place* place = co_await find(node);
    if (place) found.push_back({node, place});
  }
  std::optional<Error> first;
  for (const Found& candidate : found) {
    Place* to = candidate.place;
    auto moved = co_await move_all(found, *to).result();
    if (moved) co_return to;
    if (!first) first = moved.error();
  }
  if (first) co_await *first;
  co_return &main_;
}

}  // namespace tidemark
