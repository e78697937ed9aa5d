#include "control/commands/node_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/commands/node_info.hpp"
#include "control/graph/node_names.hpp"
#include "control/nodes/auto_read_only.hpp"

namespace tidemark {
namespace {

// On the nodes' thread.

Task<> open(Graph& graph, schema::BlockdevOptions options, ThrottleGroups groups) {
  NodeOpener opener(graph);
  opener.use_groups(std::move(groups));
  co_await opener.add(std::move(options));
}

// QEMU looks for users that are no nodes first, then for jobs, then for nodes, and has another word for each.
Task<BlockNode*> find_without_roots(Graph& graph, const std::string& name) {
  BlockNode* node = graph.find(name);
  if (!node) co_await Error(Errc::not_found, fmt::format("Failed to find node with node-name='{}'", name));
  for (const Edge* user : node->parents())
    if (user->is_root()) co_await Error(Errc::busy, fmt::format("Node {} is in use by {}", name, user->describe_user()));
  co_return node;
}

Task<> remove(Graph& graph, const std::string& name) {
  BlockNode* node = co_await find_without_roots(graph, name);
  for (const Edge* user : node->parents())
    if (user->role() == Role::backing)
      co_await Error(Errc::busy, fmt::format("Node '{}' is busy: node is used as backing hd of '{}'", name, user->parent()->name()));
  if (!node->options().monitor_owned) co_await Error(Errc::busy, fmt::format("Node {} is not owned by the monitor", name));
  if (!node->parents().empty()) co_await Error(Errc::busy, fmt::format("Block device {} is in use", name));
  std::vector<std::string> below;
  for (const Edge* edge : node->driver().edges()) below.push_back(edge->node().name());
  const Result<> closed = co_await graph.remove(*node).result();
  if (!closed && graph.find(name)) co_await closed.error();
  for (const std::string& child : below)
    if (BlockNode* storage = graph.find(child)) co_await end_unused_writing(*storage);
  if (closed) co_return;
  // It has gone, whatever its closing says: only what it could not store any more is lost.
  const TrackingReport report{TrackingReport::Kind::failed, "when it was removed: " + closed.error().message()};
  graph.tell(&Graph::Listeners::tracking, name, report);
}

Task<std::vector<schema::BlockDeviceInfo>> describe_all(Graph& graph, bool flat) {
  // Names, since nodes may come and go while one is asked.
  std::vector<std::string> names;
  for (const auto& node : graph.nodes()) names.push_back(node->name());
  std::vector<schema::BlockDeviceInfo> all;
  for (auto name = names.rbegin(); name != names.rend(); ++name)
    if (BlockNode* node = graph.find(*name)) all.push_back(co_await describe_node(*node, flat));
  co_return std::move(all);
}

}  // namespace

// New nodes live where those live that they refer to.
Task<> NodeCommandHandler::blockdev_add(schema::BlockdevOptions arguments) {
  NodeNames names = names_in(arguments);
  Place* place = co_await homes_.gather(std::move(names.used));
  co_await homes_.check_free_elsewhere(std::move(names.made), *place);
  ThrottleGroups groups = objects_.throttle_groups;
  co_await homes_.at(*place, open(place->graph, std::move(arguments), std::move(groups)));
}

Task<> NodeCommandHandler::blockdev_del(schema::BlockdevDelArguments arguments) {
  Place* place = co_await homes_.find(arguments.node_name);
  if (!place) place = &homes_.main();
  const BlockNode* node = co_await homes_.at(*place, find_without_roots(place->graph, arguments.node_name));
  co_await jobs_.check_unused(*node, place->reactor);
  co_await homes_.at(*place, remove(place->graph, arguments.node_name));
}

Task<std::vector<schema::BlockDeviceInfo>> NodeCommandHandler::query_named_block_nodes(
    schema::QueryNamedBlockNodesArguments arguments) {
  std::vector<schema::BlockDeviceInfo> all;
  for (Place* place : homes_.all()) {
    auto there = co_await homes_.at(*place, describe_all(place->graph, arguments.flat));
    all.insert(all.end(), std::make_move_iterator(there.begin()), std::make_move_iterator(there.end()));
  }
  co_return std::move(all);
}

}  // namespace tidemark
