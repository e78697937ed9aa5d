#include "control/group_decisions.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

namespace tidemark {
namespace {

// At a node's place.

using Tracked = std::pair<std::string, GroupKeeper>;       // a node

Task<std::vector<Tracked>> find_nodes(Graph& graph, std::uint64_t group) {
  const auto concerned = [group](const auto& bitmap) { return bitmap->persistent() && bitmap->concerns(group); };
  std::vector<Tracked> found;
  for (const auto& node : graph.nodes()) {
    const NodeBitmaps& bitmaps = node->bitmaps();
    const bool any = std::ranges::any_of(bitmaps.all(), concerned) || std::ranges::any_of(bitmaps.retired(), concerned);
    if (!any || !node->tracking()) continue;
    GroupKeeper keeper = node->tracking()->keeper();
    if (keeper.store != 0) keeper.path = std::filesystem::absolute(keeper.path).string();
    found.emplace_back(node->name(), std::move(keeper));
  }
  co_return std::move(found);
}

Task<NodeTracking*> tracking_of(Graph& graph, std::string node) {
  NodeTracking* tracking = (co_await unwrap(graph.lookup(node)))->tracking();
  if (!tracking) co_await Error(Errc::not_found, fmt::format("node '{}' does not keep its bitmaps any more", node));
  co_return tracking;
}

Task<> intend_at(Graph& graph, std::string node, std::uint64_t group, GroupKeeper keeper) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  co_await tracking->intend(group, keeper);
}

Task<> withdraw_at(Graph& graph, std::string node, std::uint64_t group) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  tracking->withdraw(group);
}

Task<> decide_at(Graph& graph, std::string node, std::uint64_t group, bool recorded) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  co_await tracking->decide(group, recorded);
}

Task<> settle_at(Graph& graph, std::string node, std::uint64_t group) {
  NodeTracking* tracking = co_await tracking_of(graph, node);
  const Result<> settled = co_await tracking->settle_group(group).result();
  if (settled) co_return;
  const std::string message = fmt::format("what a group has done to the bitmaps of node '{}' is not in its store yet: {}", node,
                                          settled.error().message());
  const TrackingReport report{TrackingReport::Kind::failed, message};
  graph.tell_tracking(node, report);
  co_await settled.error();
}

Task<> forget_at(Graph& graph, std::string node, std::uint64_t group) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  tracking->forget_group(group);
}

}  // namespace

Task<GroupDecisions::Stores> GroupDecisions::find(std::uint64_t group) {
  Stores stores;
  for (Place* place : homes_.all()) {
    const std::vector<Tracked> there = co_await homes_.at(*place, find_nodes(place->graph, group));
    for (const auto& [node, keeper] : there) stores.push_back({place, node, keeper});
  }
  co_return std::move(stores);
}

Task<> GroupDecisions::intend(std::uint64_t group, const GroupKeeper& keeper, const Stores& stores) {
  for (const Store& store : stores) co_await homes_.at(*store.place, intend_at(store.place->graph, store.node, group, keeper));
}

Task<> GroupDecisions::withdraw(std::uint64_t group, const Stores& stores) {
  for (const Store& store : stores)
    (void)co_await homes_.at(*store.place, withdraw_at(store.place->graph, store.node, group)).result();
}

// Whether nobody has to ask any more.
Task<bool> GroupDecisions::settle(std::uint64_t group, const Stores& stores) {
  bool all = true;
  for (const Store& store : stores) {
    const Result<> settled = co_await homes_.at(*store.place, settle_at(store.place->graph, store.node, group)).result();
    all = all && settled;
  }
  co_return all;
}

Task<> GroupDecisions::decide(std::uint64_t group) {
  const auto turn = co_await turn_.lock();
  Stores others = co_await find(group);
  // Where bitmaps last from one orderly end to the next only, there is nothing to be durable.
  const auto first = std::ranges::find_if(others, [](const Store& store) { return store.keeper.store != 0; });
  if (first == others.end()) {
    (void)co_await settle(group, others);
    co_return;
  }
  const Store keeper = *first;
  others.erase(first);
  const bool in_order = homes_.main().graph.keeps(Rule::intend_before_record);
  Result<> decided;
  if (in_order) decided = co_await intend(group, keeper.keeper, others).result();
  if (decided)
    decided = co_await homes_.at(*keeper.place, decide_at(keeper.place->graph, keeper.node, group, !others.empty())).result();
  if (!decided) {
    co_await withdraw(group, others);
    co_await decided.error();
  }
  if (!in_order) (void)co_await intend(group, keeper.keeper, others).result();
  const bool settled = co_await settle(group, others);
  if (settled) (void)co_await homes_.at(*keeper.place, forget_at(keeper.place->graph, keeper.node, group)).result();
}

}  // namespace tidemark
