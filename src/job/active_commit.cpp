#include "job/active_commit.hpp"

#include <algorithm>

#include "block/graph.hpp"

namespace tidemark {

using P = Permissions;

Task<> ActiveCommit::open_base() {
  const Permissions nothing{P::none, P::all};
  kept_ = co_await unwrap(Edge::attach(base_, Role::filtered, nothing, user_));
  if (!base_.read_only()) co_return;
  co_await access_.make_writable(base_);
  made_writable_ = true;
}

// Who lets nobody write to them forbids writing to the base.  These edges carry no requests: they are no root users.
Result<> ActiveCommit::hold_layers() {
  const Permissions of_layer{P::none, P::all & ~P::consistent_read};
  for (BlockNode* at = &top_; at != &base_; at = at->driver().is_filter() ? at->filtered() : at->backing()) {
    auto edge = Edge::attach(*at, Role::filtered, of_layer, user_);
    if (!edge) return edge.error();
    layers_.push_back(*std::move(edge));
  }
  return {};
}

bool ActiveCommit::holds(const BlockNode& node) const noexcept {
  return std::any_of(layers_.begin(), layers_.end(), [&](const auto& edge) { return &edge->node() == &node; });
}

Task<> ActiveCommit::close_base() {
  if (!kept_) co_return;
  if (std::exchange(made_writable_, false) && !stays_writable_) (void)co_await access_.make_read_only(base_).result();
  kept_.reset();
  (void)co_await base_.graph().release(base_).result();
}

}  // namespace tidemark
