#include "control/commands/graph_commands.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "control/graph/size_change.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/image_bitmaps.hpp"

namespace tidemark {
namespace {

// On the node's thread.  The node may be gone since it was found.

Task<const BlockNode*> find(Graph& graph, std::string name) { co_return co_await unwrap(graph.lookup(name)); }

// Guests' requests go on meanwhile; those that a smaller disk has no place for fail.
Task<> resize(Graph& graph, const std::string& name, std::uint64_t size) {
  BlockNode* node = co_await unwrap(graph.lookup(name));
  co_await begin_to_write(*node);
  if (node->read_only()) co_await Error(Errc::permission, "Image is read-only", EROFS);
  co_await unwrap(check_no_bitmaps_above(*node));
  co_await unwrap(check_storable_at(*node, size));
  constexpr Permissions resizing{Permissions::resize, Permissions::all};
  auto edge = co_await unwrap(Edge::attach(*node, Role::root, resizing, "an unnamed block device"));
  // A device is as large as it is: asked for less, the node gets all of it, as QEMU's does.
  const std::optional<std::uint64_t> device = co_await node->driver().device_size();
  const Growth growth = device ? Growth::as_it_is : Growth::zeroes;
  co_await edge->truncate(std::max(size, device.value_or(0)), growth);
}

Task<> check_child(Graph& graph, const std::string& parent, const std::string& child) {
  const BlockNode* node = co_await unwrap(graph.lookup(parent));
  for (const Edge* edge : node->driver().edges())
    if (edge->name() == child) co_return;
  co_await Error(Errc::not_found, fmt::format("Node '{}' does not have child '{}'", parent, child));
}

using schema::BlockPermission;

std::vector<BlockPermission> describe(Permissions::Set set) {
  const std::pair<Permissions::Set, BlockPermission> known[] = {
      {Permissions::resize, BlockPermission::resize}, {Permissions::write_unchanged, BlockPermission::write_unchanged},
      {Permissions::write, BlockPermission::write}, {Permissions::consistent_read, BlockPermission::consistent_read}};
  std::vector<BlockPermission> names;
  for (const auto& [bit, name] : known)
    if (set & bit) names.push_back(name);
  return names;
}

// What is seen of all graphs.
struct Drawing {
  std::vector<schema::XDbgBlockGraphNode> nodes;
  std::vector<schema::XDbgBlockGraphEdge> edges;
  std::map<const void*, std::uint64_t> numbers;

  std::uint64_t number_of(const void* thing) { return numbers.try_emplace(thing, numbers.size() + 1).first->second; }

  void add(const void* thing, schema::XDbgBlockGraphNodeType type, std::string name) {
    schema::XDbgBlockGraphNode node;
    node.id = number_of(thing);
    node.type = type;
    node.name = std::move(name);
    nodes.push_back(std::move(node));
  }
  void add(const void* parent, const Edge& edge) {
    schema::XDbgBlockGraphEdge drawn;
    drawn.parent = number_of(parent);
    drawn.child = number_of(&edge.node());
    drawn.name = edge.name();
    drawn.perm = describe(edge.permissions().uses);
    drawn.shared_perm = describe(edge.permissions().shares);
    edges.push_back(std::move(drawn));
  }
};

constexpr std::string_view job_prefix = "block job '";

// A job is one vertex, however many nodes it uses.
Task<> draw_users(Graph& graph, Drawing& drawing, std::map<std::string, const Edge*>& jobs) {
  for (const auto& node : graph.nodes())
    for (const Edge* user : node->parents()) {
      if (user->parent()) continue;
      const std::string described = user->describe_user();
      const void* vertex = user;
      if (described.starts_with(job_prefix)) vertex = jobs.try_emplace(described, user).first->second;
      if (vertex == user && described.starts_with(job_prefix))
        drawing.add(user, schema::XDbgBlockGraphNodeType::block_job,
                    described.substr(job_prefix.size(), described.size() - job_prefix.size() - 1));
      else if (vertex == user) drawing.add(user, schema::XDbgBlockGraphNodeType::block_backend, "");
      drawing.add(vertex, *user);
    }
  co_return;
}

// From the last edge to the first: all is turned round in the end.
Task<> draw_nodes(Graph& graph, Drawing& drawing) {
  for (const auto& node : graph.nodes()) {
    drawing.add(node.get(), schema::XDbgBlockGraphNodeType::block_driver, node->name());
    std::vector<Edge*> children = node->driver().edges();
    for (auto child = children.rbegin(); child != children.rend(); ++child) drawing.add(node.get(), **child);
  }
  co_return;
}

}  // namespace

Task<> GraphCommandHandler::block_resize(schema::BlockResizeArguments arguments) {
  const std::string name = arguments.node_name.value_or("");
  Place* place = co_await homes_.find(name);
  if (!place)
    co_await Error(Errc::not_found, fmt::format("Cannot find device='{}' nor node-name='{}'", arguments.device.value_or(""), name));
  if (arguments.size < 0) co_await Error(Errc::invalid_argument, "Parameter 'size' expects a >0 size");
  const BlockNode* node = co_await homes_.at(*place, find(place->graph, name));
  const Result<> unused = co_await jobs_.check_unused(*node, place->reactor).result();
  if (!unused) co_await Error(Errc::busy, fmt::format("Device '{}' is in use", name));
  co_await homes_.at(*place, resize(place->graph, name, static_cast<std::uint64_t>(arguments.size)));
}

Task<> GraphCommandHandler::x_blockdev_change(schema::XBlockdevChangeArguments arguments) {
  const std::string& parent = arguments.parent;
  Place* place = co_await homes_.lookup(parent);
  if (arguments.child && arguments.node) co_await Error(Errc::invalid_argument, "The parameters child and node are in conflict");
  if (!arguments.child && !arguments.node) co_await Error(Errc::invalid_argument, "Either child or node must be specified");
  if (arguments.child) {
    co_await homes_.at(*place, check_child(place->graph, parent, *arguments.child));
    co_await Error(Errc::unsupported, fmt::format("The node {} does not support removing a child", parent));
  }
  const Place* there = co_await homes_.find(*arguments.node);
  if (!there) co_await Error(Errc::not_found, fmt::format("Node '{}' not found", *arguments.node));
  co_await Error(Errc::unsupported, fmt::format("The node {} does not support adding a child", parent));
}

Task<> GraphCommandHandler::x_blockdev_set_iothread(schema::XBlockdevSetIothreadArguments arguments) {
  const std::string& node = arguments.node_name;
  const Place* place = co_await homes_.find(node);
  if (!place) co_await Error(Errc::not_found, fmt::format("Failed to find node with node-name='{}'", node));
  Place* to = &homes_.main();
  if (const auto* id = std::get_if<std::string>(&arguments.iothread.value)) {
    to = homes_.find_thread(*id);
    if (!to) co_await Error(Errc::not_found, fmt::format("Cannot find iothread {}", *id));
  }
  co_await homes_.move(node, *to);
}

Task<schema::XDbgBlockGraph> GraphCommandHandler::x_debug_query_block_graph() {
  Drawing drawing;
  std::map<std::string, const Edge*> jobs;
  for (Place* place : homes_.all()) co_await homes_.at(*place, draw_users(place->graph, drawing, jobs));
  for (Place* place : homes_.all()) co_await homes_.at(*place, draw_nodes(place->graph, drawing));
  schema::XDbgBlockGraph graph;
  graph.nodes.assign(std::make_move_iterator(drawing.nodes.rbegin()), std::make_move_iterator(drawing.nodes.rend()));
  graph.edges.assign(std::make_move_iterator(drawing.edges.rbegin()), std::make_move_iterator(drawing.edges.rend()));
  co_return std::move(graph);
}

}  // namespace tidemark
