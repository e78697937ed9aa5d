#include "block/edge.hpp"

#include <algorithm>
#include <cerrno>

#include "block/graph.hpp"
#include "block/permission_update.hpp"

namespace tidemark {
namespace {

Error conflict(const Edge& user, const Edge& owner, Permissions::Set set) {
  const std::string& node = user.node().name();
  auto use = [&](const Edge& edge) {
    return edge.describe_user() + " (uses node '" + node + "' as '" + std::string(edge.name()) +
           "' child)";
  };
  return Error(Errc::busy, "Permission conflict on node '" + node + "': permissions '" + permission_names(set) +
                               "' are both required by " + use(user) + " and unshared by " + use(owner) + ".");
}

// Its content is another program's.
Result<> check_idle(const BlockNode& node) {
  for (const Edge* user : node.parents())
    if (user->permissions().uses != Permissions::none)
      return Error(Errc::busy, "Node '" + node.name() + "' cannot be inactive while " + user->describe_user() +
                                   " uses it; activate it with blockdev-set-active, or end that use first");
  return {};
}

Result<> check_users(const BlockNode& node) {
  if (!node.active()) return check_idle(node);
  if (node.read_only() && node.has_writers())
    return Error(Errc::permission, "Block node '" + node.name() + "' is read-only", EROFS);
  for (const Edge* user : node.parents())
    for (const Edge* owner : node.parents()) {
      if (user == owner) continue;
      const auto denied = static_cast<Permissions::Set>(user->permissions().uses & ~owner->permissions().shares);
      if (denied) return conflict(*user, *owner, denied);
    }
  return {};
}

}  // namespace

PermissionUpdate::~PermissionUpdate() {
  for (auto old = undo_.rbegin(); old != undo_.rend(); ++old) {
    old->edge->permissions_ = old->permissions;
    link(*old->edge, old->node);
  }
}

void PermissionUpdate::commit() noexcept {
  for (const Old& old : std::exchange(undo_, {}))
    if (old.node && old.permissions.writes() && !old.node->has_writers()) old.node->driver_->writers_gone();
}

void PermissionUpdate::link(Edge& edge, BlockNode* to) {
  if (edge.node_ == to) return;
  if (edge.node_) std::erase(edge.node_->parents_, &edge);
  edge.node_ = to;
  if (to) to->parents_.push_back(&edge);
}

void PermissionUpdate::set(Edge& edge, Permissions permissions) {
  undo_.push_back({&edge, edge.permissions_, edge.node_});
  edge.permissions_ = permissions;
}

void PermissionUpdate::move(Edge& edge, BlockNode* to) {
  undo_.push_back({&edge, edge.permissions_, edge.node_});
  link(edge, to);
}

Result<> PermissionUpdate::refresh(BlockNode& node) {
  if (auto ok = check_users(node); !ok) return ok;
  Permissions cumulative;
  for (const Edge* user : node.parents_) {
    cumulative.uses |= user->permissions_.uses;
    cumulative.shares &= user->permissions_.shares;
  }
  for (Edge* child : node.driver_->edges()) {
    Permissions wanted;
    if (node.active() && !child->indifferent_) wanted = node.driver_->child_permissions(*child, cumulative, !node.read_only());
    if (wanted == child->permissions_) continue;
    set(*child, wanted);
    if (auto ok = refresh(*child->node_); !ok) return ok;
  }
  return {};
}

Result<std::unique_ptr<Edge>> Edge::attach(BlockNode& child, Role role, Permissions permissions, std::string user) {
  if (child.closing_) return Error(Errc::not_found, "Node '" + child.name() + "' is being removed");
  std::unique_ptr<Edge> edge(new Edge(role, std::move(user)));
  PermissionUpdate update;
  update.set(*edge, permissions);
  update.move(*edge, &child);
  if (auto ok = update.refresh(child); !ok) return ok.error();
  update.commit();
  return edge;
}

Edge::~Edge() {
  if (!node_) return;
  BlockNode& node = *node_;
  PermissionUpdate update;
  update.move(*this, nullptr);
  const bool relaxed = update.refresh(node).ok();     // fewer users never conflict
  TM_ASSERT(relaxed);
  update.commit();
}

std::string Edge::describe_user() const {
  return parent_ ? "node '" + parent_->name() + "'" : user_;
}

Result<> Edge::set_permissions(Permissions permissions) {
  PermissionUpdate update;
  update.set(*this, permissions);
  if (auto ok = update.refresh(*node_); !ok) return ok;
  update.commit();
  return {};
}

Result<> Edge::set_indifferent(bool indifferent) {
  indifferent_ = indifferent;
  auto ok = parent_->graph().refresh_permissions(*parent_);
  if (!ok) indifferent_ = !indifferent;
  return ok;
}

Result<> Edge::retarget(BlockNode& child) {
  BlockNode& old = *node_;
  PermissionUpdate update;
  update.move(*this, &child);
  if (auto ok = update.refresh(old); !ok) return ok;
  if (auto ok = update.refresh(child); !ok) return ok;
  update.commit();
  Graph::refresh_limits(child);
  child.graph().shape_changed();
  return {};
}

std::string_view Edge::name() const noexcept {
  return parent_ ? parent_->driver().child_name(*this) : to_string(role_);
}

void Edge::tell(DebugEvent event) { node_->driver().told(event); }
std::uint64_t Edge::size() const noexcept { return node_->size(); }
Task<> Edge::read(std::uint64_t offset, Buffers into) { return BlockNode::read(*this, offset, into); }
Task<> Edge::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  return BlockNode::write(*this, offset, from, flags);
}
Task<> Edge::write_zeroes(Range range, WriteFlags flags) { return BlockNode::write_zeroes(*this, range, flags); }
Task<> Edge::write_compressed(std::uint64_t offset, Buffers from) {
  return BlockNode::write_compressed(*this, offset, from);
}
Task<> Edge::discard(Range range) { return BlockNode::discard(*this, range); }
Task<> Edge::flush() { return BlockNode::flush(*this, told_); }
Task<> Edge::flush(std::uint64_t& told) { return BlockNode::flush(*this, told); }
Task<> Edge::write_back(PageCache after) { return BlockNode::write_back(*this, after); }
Task<> Edge::truncate(std::uint64_t size, Growth growth) { return BlockNode::truncate(*this, size, growth); }
Task<Extent> Edge::map(Range wanted) { return BlockNode::map(*this, wanted); }
Task<InFlight> Edge::enter() { return BlockNode::enter(*this); }

}  // namespace tidemark
