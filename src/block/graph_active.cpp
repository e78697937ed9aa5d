// Nodes that are handed over to another program, and taken back.
//
// Invariant: an inactive node is only read, keeps no other program away, and nobody above relies on what it reads as.
#include "block/graph.hpp"

namespace tidemark {

Task<> Graph::set_active(BlockNode& node, bool active) {
  if (node.active() == active) co_return;
  TM_ASSERT(node.read_only() && !node.tracking());
  if (!active) co_await unwrap(change(node, &NodeOptions::active, false));
  const Result<> done = co_await node.driver_->set_active(active).result();
  Result<> shown;
  if (done && active) shown = change(node, &NodeOptions::active, true);
  if (done && shown) co_return refresh_limits(node);
  if (!active) {
    (void)change(node, &NodeOptions::active, true);                       // as it was before
    co_await done.error();
  }
  if (!done) co_await done.error();
  (void)co_await node.driver_->set_active(false).result();
  co_await shown.error();
}

void Graph::content_replaced(BlockNode& node) noexcept {
  node.remember_size(node.size());
  refresh_limits(node);
  shape_changed();
}

Task<> Graph::exchange(BlockNode& node, std::unique_ptr<BlockDriver> driver) {
  TM_ASSERT(!node.tracking());
  std::swap(node.driver_, driver);
  node.driver_->home().move_to(reactor_);
  for (Edge* edge : node.driver_->edges()) edge->parent_ = &node;
  const Result<> ok = refresh_permissions(node);
  if (!ok) std::swap(node.driver_, driver);
  node.listen_to_driver();
  (void)co_await driver->close().result();               // it was only read
  driver.reset();
  content_replaced(node);
  co_await unwrap(ok);
}

}  // namespace tidemark
