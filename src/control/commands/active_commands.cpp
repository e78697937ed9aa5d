#include "control/commands/active_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/nodes/active.hpp"

namespace tidemark {
namespace {

// On the nodes' thread.

Task<std::vector<std::string>> top_nodes(Graph& graph) {
  std::vector<std::string> names;
  const auto is_no_node = [](const Edge* user) { return user->parent() == nullptr; };
  for (const auto& node : graph.nodes())
    if (std::all_of(node->parents().begin(), node->parents().end(), is_no_node)) names.push_back(node->name());
  co_return names;
}

Task<std::vector<BlockNode*>> changed_with(Graph& graph, const std::string& name, bool active) {
  std::vector<BlockNode*> none;
  BlockNode* node = graph.pin(name);
  if (!node) co_return none;
  if (active) co_return activated_with(*node);
  co_return inactivated_with(*node);
}

}  // namespace

Task<> ActiveCommandHandler::change(Place& place, std::string name, bool active) {
  const std::vector<BlockNode*> nodes = co_await homes_.at(place, changed_with(place.graph, name, active));
  for (const BlockNode* node : nodes) co_await jobs_.check_unused(*node, place.reactor);
  co_await exports_.set_active(place, name, active);
}

Task<> ActiveCommandHandler::blockdev_set_active(schema::BlockdevSetActiveArguments arguments) {
  if (arguments.node_name) {
    Place* place = co_await homes_.find(*arguments.node_name);
    if (!place) co_await Error(Errc::not_found, fmt::format("Failed to find node with node-name='{}'", *arguments.node_name));
    co_return co_await change(*place, *arguments.node_name, arguments.active);
  }
  for (Place* place : homes_.all()) {
    const std::vector<std::string> names = co_await homes_.at(*place, top_nodes(place->graph));
    for (const std::string& name : names) co_await change(*place, name, arguments.active);
  }
}

}  // namespace tidemark
