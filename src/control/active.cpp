#include "control/active.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/read_only.hpp"
#include "control/tracking_stores.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

std::vector<BlockNode*> children(const BlockNode& node) {
  std::vector<BlockNode*> found;
  for (const Edge* edge : node.driver().edges()) found.push_back(&edge->node());
  return found;
}

bool used_by_active(const BlockNode& node) {
  const auto active = [](const Edge* user) {
    return user->parent() ? user->parent()->active() : user->permissions().uses != Permissions::none;
  };
  return std::any_of(node.parents().begin(), node.parents().end(), active);
}

Result<> check_can_be_inactive(BlockNode& node) {
  for (const Edge* user : node.parents()) {
    if (user->parent() && user->parent()->active())
      return Error(Errc::busy, fmt::format("Node '{}' has active parent node '{}'", node.name(), user->parent()->name()));
    if (!user->parent() && user->permissions().uses != Permissions::none)
      return Error(Errc::busy, fmt::format("Node '{}' cannot be inactivated: {} uses it and does not allow that", node.name(),
                                           user->describe_user()));
  }
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->busy() && bitmap->persistent())
      return Error(Errc::busy, fmt::format("Node '{}' cannot be inactivated: its bitmap '{}' is in use", node.name(), bitmap->name()));
  return {};
}

// They are stored, and another program may change them there.
void drop_stored_bitmaps(NodeBitmaps& bitmaps) {
  const auto all = bitmaps.all();
  for (const auto& bitmap : all)
    if (bitmap->persistent()) (void)bitmaps.remove(*bitmap);
}

Task<> inactivate_one(BlockNode& node) {
  co_await unwrap(check_can_be_inactive(node));
  const auto drained = co_await node.graph().drain(node);
  const bool writes = !node.read_only();
  if (writes) co_await set_read_only(node, true);
  const Result<> done = co_await node.graph().set_active(node, false).result();
  if (!done) {
    if (writes) (void)co_await set_read_only(node, false).result();
    co_await done.error();
  }
  node.set_writes_when_active(writes);
  drop_stored_bitmaps(node.bitmaps());
}

// What was read of an image is read again, by a driver of its own.
Task<> read_image_anew(BlockNode& node) {
  auto* const before = dynamic_cast<Qcow2Driver*>(&node.driver());
  if (!before) co_return;
  const Permissions none;
  const auto again = [&none](const Edge& edge) { return Edge::attach(edge.node(), edge.role(), none, "an image being opened"); };
  Qcow2OpenOptions options = before->options();
  options.read_only = true;
  auto file = co_await unwrap(again(*node.child(Role::file)));
  std::unique_ptr<Qcow2Driver> image = co_await Qcow2Driver::open(std::move(file), options);
  Result<> same;
  const auto changed = [&](std::string_view what, const std::string& was, const std::string& is) {
    same = Error(Errc::busy, fmt::format("The image of node '{}' names another {} by now ('{}'; it was '{}'): remove the node and "
                                         "add it again", node.name(), what, is, was));
  };
  const bool names_count = node.options().backing_found;
  if (names_count && image->backing_file() != before->backing_file())
    changed("backing file", before->backing_file(), image->backing_file());
  if (image->needs_data_file() != before->needs_data_file()) changed("data file", before->data_file(), image->data_file());
  if (const Edge* data = node.child(Role::data_file); same && data) {
    auto edge = again(*data);
    if (edge) image->set_data_file(*std::move(edge));
    else same = edge.error();
  }
  if (const Edge* backing = node.child(Role::backing); same && backing) {
    auto edge = again(*backing);
    if (edge) image->set_backing(*std::move(edge));
    else same = edge.error();
  }
  if (!same) {
    (void)co_await image->close().result();
    co_await same.error();
  }
  co_await node.graph().exchange(node, std::move(image));
}

// They have not seen what was written meanwhile.
void distrust_bitmaps(NodeBitmaps& bitmaps) {
  for (const auto& bitmap : bitmaps.all())
    if (!bitmap->persistent()) bitmap->set_inconsistent("the node was inactive, and other programs may have written the image");
}

// As when it was opened: those of a node that is only read are shown.
Task<> begin(BlockNode& node) {
  if (node.writes_when_active()) co_await set_read_only(node, false);
  else if (node.options().monitor_owned && node.parents().empty()) co_await open_tracking(node);
}

Task<> activate_one(BlockNode& node) {
  const auto drained = co_await node.graph().drain(node);
  co_await read_image_anew(node);
  co_await node.graph().set_active(node, true);
  const Result<> begun = co_await begin(node).result();
  if (!begun) {
    (void)co_await node.graph().set_active(node, false).result();
    drop_stored_bitmaps(node.bitmaps());
    co_await begun.error();
  }
  node.set_writes_when_active(false);
  distrust_bitmaps(node.bitmaps());
}

// The children first.
void order(BlockNode& node, std::vector<BlockNode*>& nodes) {
  for (BlockNode* child : children(node)) order(*child, nodes);
  if (!node.active() && std::find(nodes.begin(), nodes.end(), &node) == nodes.end()) nodes.push_back(&node);
}

Task<> inactivate_with_children(BlockNode& node, std::vector<BlockNode*>& done) {
  if (!node.active()) co_return;
  co_await inactivate_one(node);
  done.push_back(&node);
  for (BlockNode* child : children(node))
    if (!used_by_active(*child)) co_await inactivate_with_children(*child, done);
}

}  // namespace

Task<> inactivate(BlockNode& node) {
  std::vector<BlockNode*> changed;
  const Result<> done = co_await inactivate_with_children(node, changed).result();
  if (done) co_return;
  for (auto back = changed.rbegin(); back != changed.rend(); ++back) (void)co_await activate_one(**back).result();
  co_await done.error();
}

Task<> activate(BlockNode& node) {
  std::vector<BlockNode*> wanted, changed;
  order(node, wanted);
  for (BlockNode* each : wanted) {
    const Result<> done = co_await activate_one(*each).result();
    if (done) {
      changed.push_back(each);
      continue;
    }
    for (auto back = changed.rbegin(); back != changed.rend(); ++back) (void)co_await inactivate_one(**back).result();
    co_await done.error();
  }
}

}  // namespace tidemark
