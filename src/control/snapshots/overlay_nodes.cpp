#include "control/snapshots/overlay_nodes.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/graph/backing_names.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/images_made.hpp"
#include "filter/mirror_top.hpp"

namespace tidemark {

Task<BlockNode*> find_node(Graph& graph, std::string name) { co_return co_await unwrap(graph.lookup(name)); }

Task<> check_not_below(const BlockNode& node) {
  for (const Edge* user : node.parents())
    if (user->role() == Role::backing)
      co_await Error(Errc::busy,
                     fmt::format("Node '{}' is busy: node is used as backing hd of '{}'", node.name(), user->parent()->name()));
}

namespace {

// QEMU asks whether anybody reads it.  Who writes relies on what is below it, too, but for a mirror that counts on something else to come.
bool minds_another_backing(const Edge& user) {
  const Permissions::Set uses = user.permissions().uses;
  if (uses & Permissions::consistent_read) return true;
  if (!(uses & Permissions::write)) return false;
  const auto* mirror = user.parent() ? dynamic_cast<const MirrorTop*>(&user.parent()->driver()) : nullptr;
  return !mirror || !mirror->backing_later();
}

}  // namespace

Result<> check_overlay(BlockNode& overlay) {
  for (const Edge* user : overlay.parents())
    if (minds_another_backing(*user)) return Error(Errc::busy, "The overlay is already in use");
  if (overlay.driver().is_filter()) return Error(Errc::invalid_argument, "Filters cannot be used as overlays");
  if (overlay.backing()) return Error(Errc::invalid_argument, "The overlay already has a backing image");
  if (!overlay.driver().backing_place()) return Error(Errc::invalid_argument, "The overlay does not support backing images");
  return {};
}

Task<> flush_for_snapshot(BlockNode& node) {
  if (node.read_only()) co_return;
  const Result<> flushed = co_await node.make_durable().result();
  if (!flushed) co_await Error(flushed.error().code(), "An IO error has occurred", flushed.error().os_errno());
}

Task<std::unique_ptr<Edge>> keep_overlay(BlockNode& overlay) {
  const Permissions nothing{Permissions::none, Permissions::all};
  co_return co_await unwrap(Edge::attach(overlay, Role::filtered, nothing, "a snapshot"));
}

Task<> release_overlay(BlockNode& overlay, std::unique_ptr<Edge>& kept) {
  kept.reset();
  co_await overlay.graph().release(overlay);
}

Task<std::vector<Edge*>> put_in_place(BlockNode& node, BlockNode& overlay, BlockNode& below) {
  co_await unwrap(check_overlay(overlay));
  const std::vector<Edge*> users = node.parents();
  Graph& graph = node.graph();
  if (overlay.read_only() && !graph.check_no_writer(node))
    co_await Error(Errc::permission, fmt::format("Read-only block node '{}' cannot support read-write users", overlay.name()), EROFS);
  co_await unwrap(graph.set_backing(overlay, &below));
  const Result<> replaced = graph.replace(node, overlay);
  if (!replaced) {
    TM_ASSERT(graph.set_backing(overlay, nullptr).ok());
    co_await replaced.error();
  }
  std::vector<Edge*> moved;
  for (Edge* user : users)
    if (&user->node() == &overlay) moved.push_back(user);
  co_return std::move(moved);
}

Task<> take_out_of_place(BlockNode& node, BlockNode& overlay, const std::vector<Edge*>& moved) {
  TM_ASSERT(node.graph().set_backing(overlay, nullptr).ok());
  const std::vector<Edge*> users = overlay.parents();
  for (Edge* user : users)
    if (std::find(moved.begin(), moved.end(), user) != moved.end()) TM_ASSERT(user->retarget(node).ok());
  co_return;
}

Task<> make_overlay_file(BlockNode& below, std::string path, std::string format) {
  BackingName backing = co_await name_below(&below);
  (void)co_await create_overlay_file(below.graph(), std::move(path), std::move(format), below.size(), std::move(backing));
}

OverlayLike overlay_like(const BlockNode& node) {
  const NodeOptions& options = node.options();
  return {is_read_only(node), options.discard, options.cache_direct, options.cache_no_flush};
}

Task<BlockNode*> open_overlay_file(Graph& graph, std::string path, std::string format, OverlayLike like) {
  schema::BlockdevOptions image = co_await unwrap(describe_backing("", path, format));
  if (!like.node_name.empty()) image.node_name = like.node_name;
  image.read_only = like.read_only;
  image.discard = like.discard ? schema::BlockdevDiscardOptions::unmap : schema::BlockdevDiscardOptions::ignore;
  schema::BlockdevCacheOptions cache;
  cache.direct = like.cache_direct;
  cache.no_flush = like.cache_no_flush;
  image.cache = cache;
  if (auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&image.branch)) qcow2->backing.emplace().value = nullptr;
  NodeOpener opener(graph);
  if (like.owner == Owner::monitor) co_return co_await opener.add(std::move(image));
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(std::move(image));
  co_return co_await opener.resolve(std::move(reference));
}

}  // namespace tidemark
