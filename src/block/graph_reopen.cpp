// Nodes that are only read from now on, or written too.
//
// Invariant: a node's driver writes only while its node is not read-only, and its node is not read-only only while what it
// stores its content in is not.
#include "block/graph.hpp"
#include "block/permission_update.hpp"

namespace tidemark {
namespace {

// What the node has for itself, and whose mode nobody asked for.
std::vector<BlockNode*> followers(const BlockNode& node) {
  std::vector<BlockNode*> found;
  for (const Edge* edge : node.driver().edges()) {
    const bool stores = edge->role() == Role::file || edge->role() == Role::data_file || edge->role() == Role::filtered;
    const BlockNode& child = edge->node();
    const bool own = !child.options().monitor_owned && !child.options().read_only_fixed && child.parents().size() == 1;
    if (stores && own) found.push_back(&edge->node());
  }
  return found;
}

Result<> check_storage_writable(const BlockNode& node) {
  for (const Edge* edge : node.driver().edges()) {
    const bool stores = edge->role() != Role::backing && edge->role() != Role::target;
    if (stores && edge->node().read_only()) return Error(Errc::permission, "Block node is read-only", EROFS);
  }
  return {};
}

}  // namespace

Result<> Graph::check_no_writer(const BlockNode& node) const {
  if (!node.has_writers()) return {};
  return Error(Errc::permission, "Read-only block node '" + node.name() + "' cannot support read-write users", EROFS);
}

Task<> Graph::set_read_only(BlockNode& node, bool read_only) {
  if (node.read_only() == read_only) co_return;
  if (read_only) co_await end_writing(node);
  else co_await begin_writing(node);
}

Result<> Graph::refresh_permissions(BlockNode& node) {
  PermissionUpdate update;
  auto ok = update.refresh(node);
  if (ok) update.commit();
  return ok;
}

Result<> Graph::change(BlockNode& node, bool NodeOptions::*option, bool value) {
  node.options_.*option = value;
  auto ok = refresh_permissions(node);
  if (!ok) node.options_.*option = !value;
  return ok;
}

Task<> Graph::end_writing(BlockNode& node) {
  co_await unwrap(check_no_writer(node));
  if (node.unflushed_) {
    co_await node.make_durable();
    node.unflushed_ = false;
  }
  co_await node.driver_->set_read_only(true);
  const Result<> shown = change(node, &NodeOptions::read_only, true);
  if (!shown) {                                          // somebody has come to write
    const Result<> again = co_await node.driver_->set_read_only(false).result();
    if (!again) co_await again.error().with_context("node '" + node.name() + "' has a writer, and cannot be written again");
    co_await unwrap(check_no_writer(node));
    co_await shown.error();
  }
  // One that cannot follow stays as it is, and is not written.
  for (BlockNode* child : followers(node)) (void)co_await set_read_only(*child, true).result();
}

Task<> Graph::begin_writing(BlockNode& node) {
  if (!node.active())
    co_await Error(Errc::busy, "Node '" + node.name() + "' is inactive; activate it with blockdev-set-active first");
  std::vector<BlockNode*> begun;
  Result<> ready;
  for (BlockNode* child : followers(node)) {
    if (!ready || !child->read_only()) continue;
    ready = co_await begin_writing(*child).result();
    if (ready) begun.push_back(child);
  }
  if (ready) ready = check_storage_writable(node);
  if (ready) ready = change(node, &NodeOptions::read_only, false);
  if (ready) {
    ready = co_await node.driver_->set_read_only(false).result();
    if (!ready) (void)change(node, &NodeOptions::read_only, true);
  }
  if (ready) co_return;
  for (BlockNode* child : begun) (void)co_await end_writing(*child).result();
  co_await ready.error();
}

}  // namespace tidemark
