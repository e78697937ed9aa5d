#include "control/bitmaps/group_decisions.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

namespace tidemark {
namespace {

// At a node's place.

struct Concerned {
  std::string node;
  bool lasts;                                    // what its store says is there after a loss of power
};

Task<std::vector<Concerned>> find_nodes(Graph& graph, std::uint64_t group) {
  const auto concerned = [group](const auto& bitmap) { return bitmap->persistent() && bitmap->concerns(group); };
  std::vector<Concerned> found;
  for (const auto& node : graph.nodes()) {
    const NodeBitmaps& bitmaps = node->bitmaps();
    const bool any = std::ranges::any_of(bitmaps.all(), concerned) || std::ranges::any_of(bitmaps.retired(), concerned);
    if (any) found.push_back({node->name(), node->options().tracking.mode == TrackingMode::power});
  }
  co_return std::move(found);
}

Task<NodeTracking*> tracking_of(Graph& graph, std::string node) {
  NodeTracking* tracking = (co_await unwrap(graph.lookup(node)))->tracking();
  if (!tracking) co_await Error(Errc::not_found, fmt::format("node '{}' does not keep its bitmaps any more", node));
  co_return tracking;
}

Task<GroupKeeper> keeper_at(Graph& graph, std::string node) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  GroupKeeper keeper = co_await tracking->keeper();
  if (keeper.store != 0) keeper.path = std::filesystem::absolute(keeper.path).string();
  co_return std::move(keeper);
}

Task<> intend_at(Graph& graph, std::string node, std::uint64_t group, GroupKeeper keeper) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  co_await tracking->intend(group, keeper);
}

Task<> withdraw_at(Graph& graph, std::string node, std::uint64_t group) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  tracking->withdraw(group);
}

Task<> decide_at(Graph& graph, std::string node, std::uint64_t group, std::uint64_t recorded_as) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  co_await tracking->decide(group, recorded_as);
}

Task<> settle_at(Graph& graph, std::string node, std::uint64_t group) {
  NodeTracking* tracking = co_await tracking_of(graph, node);
  const Result<> settled = co_await tracking->settle_group(group).result();
  if (settled) co_return;
  const std::string message = fmt::format("what a group has done to the bitmaps of node '{}' is not in its store yet: {}", node,
                                          settled.error().message());
  const TrackingReport report{TrackingReport::Kind::failed, message};
  graph.tell(&Graph::Listeners::tracking, node, report);
  co_await settled.error();
}

Task<> forget_at(Graph& graph, std::string node, std::uint64_t group) {
  NodeTracking* tracking = co_await tracking_of(graph, std::move(node));
  tracking->forget_group(group);
}

}  // namespace

// At the group's own homes only: others may go meanwhile.
Task<GroupDecisions::Stores> GroupDecisions::find(std::uint64_t group, const JobTransaction::Homes& homes) {
  Stores stores;
  std::vector<Place*> places = homes_.all();
  std::erase_if(places, [&](const Place* place) { return std::ranges::find(homes, &place->reactor) == homes.end(); });
  for (Place* place : places) {
    const std::vector<Concerned> there = co_await homes_.at(*place, find_nodes(place->graph, group));
    for (const Concerned& found : there) stores.push_back({place, found.node, found.lasts, GroupKeeper()});
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

Task<> GroupDecisions::decide(std::uint64_t group, JobTransaction::Homes homes) {
  const Stores stores = co_await find(group, homes);
  const auto taken = [this](const Store& store) { return deciding_.contains(store.node); };
  while (std::ranges::any_of(stores, taken)) co_await decided_.wait();
  for (const Store& store : stores) deciding_.insert(store.node);
  const Result<> done = co_await decide_in_turn(group, stores).result();
  for (const Store& store : stores) deciding_.erase(store.node);
  decided_.notify_all();
  co_await unwrap(done);
}

// One whose record is there after a loss of power, rather than another.
GroupDecisions::Stores::iterator GroupDecisions::choose(Stores& stores) {
  const auto has_store = [](const Store& store) { return store.keeper.store != 0; };
  const auto lasts = [&](const Store& store) { return has_store(store) && store.lasts; };
  const auto first = std::ranges::find_if(stores, lasts);
  return first != stores.end() ? first : std::ranges::find_if(stores, has_store);
}

Task<> GroupDecisions::decide_in_turn(std::uint64_t group, Stores others) {
  for (Store& store : others) store.keeper = co_await homes_.at(*store.place, keeper_at(store.place->graph, store.node));
  // Where bitmaps last from one orderly end to the next only, there is nothing to be durable.
  const auto chosen = choose(others);
  if (chosen == others.end()) {
    (void)co_await settle(group, others);
    co_return;
  }
  const Store keeper = *chosen;
  others.erase(chosen);
  const bool in_order = homes_.main().graph.keeps(Rule::intend_before_record);
  const std::uint64_t recorded_as = others.empty() ? 0 : keeper.keeper.store;
  Result<> decided;
  if (in_order) decided = co_await intend(group, keeper.keeper, others).result();
  if (decided)
    decided = co_await homes_.at(*keeper.place, decide_at(keeper.place->graph, keeper.node, group, recorded_as)).result();
  if (!decided) {
    co_await withdraw(group, others);
    co_await decided.error();
  }
  if (!in_order) (void)co_await intend(group, keeper.keeper, others).result();
  const bool settled = co_await settle(group, others);
  if (settled) (void)co_await homes_.at(*keeper.place, forget_at(keeper.place->graph, keeper.node, group)).result();
}

}  // namespace tidemark
