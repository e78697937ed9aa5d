#include "control/active_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/active.hpp"

namespace tidemark {
namespace {

using Served = std::vector<std::shared_ptr<NbdExport>>;

// On the nodes' thread.

Task<std::vector<BlockNode*>> find_nodes(Graph& graph, const std::optional<std::string>& name) {
  std::vector<BlockNode*> found;
  if (name) {
    BlockNode* node = graph.find(*name);
    if (!node) co_await Error(Errc::not_found, fmt::format("Failed to find node with node-name='{}'", *name));
    found.push_back(node);
    co_return found;
  }
  const auto is_top = [](const Edge* user) { return user->parent() == nullptr; };
  for (const auto& node : graph.nodes())
    if (std::all_of(node->parents().begin(), node->parents().end(), is_top)) found.push_back(node.get());
  co_return found;
}

// Exports that mind nothing ask for nothing while their node is inactive.
void tell(const Served& served, const Graph& graph) {
  for (const auto& nbd : served)
    if (nbd->has_disk() && &nbd->disk().node().graph() == &graph) (void)nbd->set_active(nbd->disk().node().active());
}

void let_go(const Served& served, const Graph& graph, const BlockNode& node) {
  for (const auto& nbd : served) {
    const bool concerned = nbd->has_disk() && &nbd->disk().node().graph() == &graph && graph.stands_on(node, nbd->disk().node());
    if (concerned) (void)nbd->set_active(false);         // fewer demands never conflict
  }
}

Task<> set_active(Graph& graph, BlockNode& node, const Served& served, bool active) {
  if (!active) let_go(served, graph, node);
  Result<> changed;
  if (active) changed = co_await activate(node).result();
  else changed = co_await inactivate(node).result();
  tell(served, graph);
  co_await unwrap(changed);
}

}  // namespace

Task<> ActiveCommandHandler::change(Place& place, std::optional<std::string> name, bool active) {
  const std::vector<BlockNode*> nodes = co_await homes_.at(place, find_nodes(place.graph, name));
  const Served served = exports_.at(place.reactor);
  for (BlockNode* node : nodes) {
    co_await jobs_.check_unused(*node, place.reactor);
    co_await homes_.at(place, set_active(place.graph, *node, served, active));
  }
}

Task<> ActiveCommandHandler::blockdev_set_active(schema::BlockdevSetActiveArguments arguments) {
  if (arguments.node_name) {
    Place* place = co_await homes_.find(*arguments.node_name);
    if (!place) place = &homes_.main();                  // which says that it is not there
    co_return co_await change(*place, arguments.node_name, arguments.active);
  }
  for (Place* place : homes_.all()) co_await change(*place, std::nullopt, arguments.active);
}

}  // namespace tidemark
