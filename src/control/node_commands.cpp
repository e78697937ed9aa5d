#include "control/node_commands.hpp"

#include <fmt/format.h>

#include "control/node_info.hpp"

namespace tidemark {

Task<> NodeCommandHandler::blockdev_add(schema::BlockdevOptions arguments) {
  NodeOpener opener(graph_);
  co_await opener.add(std::move(arguments));
}

Task<> NodeCommandHandler::blockdev_del(schema::BlockdevDelArguments arguments) {
  BlockNode* node = graph_.find(arguments.node_name);
  if (!node) co_await Error(Errc::not_found, fmt::format("Failed to find node with node-name='{}'", arguments.node_name));
  if (!node->options().monitor_owned)
    co_await Error(Errc::busy, fmt::format("Node {} is not owned by the monitor", arguments.node_name));
  if (!node->parents().empty())
    co_await Error(Errc::busy, fmt::format("Block device {} is in use", arguments.node_name));
  co_await graph_.remove(*node);
}

Task<std::vector<schema::BlockDeviceInfo>> NodeCommandHandler::query_named_block_nodes(
    schema::QueryNamedBlockNodesArguments arguments) {
  // Names, since nodes may come and go while one is asked.
  std::vector<std::string> names;
  for (const auto& node : graph_.nodes()) names.push_back(node->name());
  std::vector<schema::BlockDeviceInfo> all;
  for (auto name = names.rbegin(); name != names.rend(); ++name)
    if (BlockNode* node = graph_.find(*name)) all.push_back(co_await describe_node(*node, arguments.flat));
  co_return std::move(all);
}

}  // namespace tidemark
