#include "control/nodes/active.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/read_only.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

using Nodes = std::vector<BlockNode*>;

bool holds(const Nodes& nodes, const BlockNode* node) { return std::find(nodes.begin(), nodes.end(), node) != nodes.end(); }

bool used_besides(const BlockNode& node, const Nodes& going) {
  const auto counts = [&](const Edge* user) {
    if (!user->parent()) return user->permissions().uses != Permissions::none;
    return user->parent()->active() && !holds(going, user->parent());
  };
  return std::any_of(node.parents().begin(), node.parents().end(), counts);
}

Error cannot(const BlockNode& node, std::string_view why) {
  return Error(Errc::busy, fmt::format("Node '{}' cannot be inactivated: {}", node.name(), why));
}

Result<> check_one(BlockNode& node, const Nodes& going) {
  for (const Edge* user : node.parents()) {
    if (user->parent() && user->parent()->active() && !holds(going, user->parent()))
      return Error(Errc::busy, fmt::format("Node '{}' has active parent node '{}'", node.name(), user->parent()->name()));
    if (!user->parent() && user->permissions().uses != Permissions::none)
      return cannot(node, user->describe_user() + " uses it and does not allow that");
  }
  const std::string_view driver = node.driver().name();
  if (driver == "copy-before-write" || driver == "snapshot-access") return cannot(node, "its point in time would not last");
  return check_bitmaps_free(node);
}

// A node that is on its way to be inactive.
struct Leaving {
  BlockNode* node;
  bool writes = false;                           // when it is active
  bool stopped = false;                          // no more
  std::unique_ptr<NodeTracking> tracking;        // that has been taken from it
};

Task<> end_tracking(Leaving& one) {
  if (!one.node->tracking()) co_return;
  co_await save_tracking(*one.node);
  one.tracking = one.node->take_tracking();
  co_await one.tracking->before_close();
}

// All that persistent bitmaps need is written while everything can be; then those above end writing before those below.
Task<> leave(std::vector<Leaving>& leaving) {
  for (Leaving& one : leaving) one.writes = !one.node->read_only();
  for (Leaving& one : leaving) co_await end_tracking(one);
  for (Leaving& one : leaving) {
    if (!one.writes) continue;
    co_await one.node->graph().set_read_only(*one.node, true);
    one.stopped = true;
  }
  for (Leaving& one : leaving)
    if (one.tracking) co_await one.tracking->after_close();
  for (Leaving& one : leaving) co_await one.node->graph().set_active(*one.node, false);
}

Task<> come_back(std::vector<Leaving>& leaving) {
  for (auto one = leaving.rbegin(); one != leaving.rend(); ++one) {
    Graph& graph = one->node->graph();
    (void)co_await graph.set_active(*one->node, true).result();
    if (one->stopped) (void)co_await graph.set_read_only(*one->node, false).result();
  }
  for (auto one = leaving.rbegin(); one != leaving.rend(); ++one)
    if (const std::unique_ptr<NodeTracking> tracking = std::move(one->tracking)) co_await resume_tracking(*one->node, *tracking);
}

// Those that are stored another program may change; the others do not see what it writes.
void give_up_bitmaps(NodeBitmaps& bitmaps) {
  const auto all = bitmaps.all();
  for (const auto& bitmap : all) {
    if (bitmap->persistent()) (void)bitmaps.remove(*bitmap);
    else bitmap->set_inconsistent("the node was inactive, and other programs may have written the image");
  }
}

Result<> check_same(const BlockNode& node, const Qcow2Driver& before, const Qcow2Driver& now) {
  const auto changed = [&](std::string_view what, const std::string& was, const std::string& is) {
    return Error(Errc::busy, fmt::format("The image of node '{}' names another {} by now ('{}'; it was '{}'): remove the node and add "
                                         "it again", node.name(), what, is, was));
  };
  const bool counts = node.options().backing_found;
  if (counts && now.backing_file() != before.backing_file()) return changed("backing file", before.backing_file(), now.backing_file());
  if (counts && now.backing_format() != before.backing_format())
    return changed("backing format", before.backing_format(), now.backing_format());
  if (now.needs_data_file() != before.needs_data_file() || now.data_file() != before.data_file())
    return changed("data file", before.data_file(), now.data_file());
  return {};
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
  Result<> same = check_same(node, *before, *image);
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

// Whether what cannot be written is only read, as when it is opened; of storage.
bool reads_what_it_cannot_write(const BlockNode& node) {
  if (!node.driver().edges().empty()) return false;
  for (const BlockNode* at = &node; at;) {
    const Json* said = at->options().given.is_object() ? at->options().given.find("auto-read-only") : nullptr;
    if (said) return said->is_bool() && said->as_bool();
    at = at->options().monitor_owned || at->parents().empty() ? nullptr : at->parents().front()->parent();      // else that says it
  }
  return false;
}

Task<> activate_one(BlockNode& node) {
  const auto drained = co_await node.graph().drain_within(node);
  co_await read_image_anew(node);
  co_await node.graph().set_active(node, true);
  node.bitmaps().truncate(node.size());
  Result<> begun;
  if (node.writes_when_active()) begun = co_await begin_to_write_storage(node).result();
  if (begun && node.writes_when_active()) begun = co_await node.graph().set_read_only(node, false).result();
  if (!begun && begun.error().code() == Errc::permission && reads_what_it_cannot_write(node)) begun = {};
  if (begun) begun = co_await open_tracking(node, OpenedAs::active_again).result();
  if (begun) co_return;
  co_await drop_tracking(node);
  if (!node.read_only()) co_await end_begun_writing(node, begun.error());
  if (!node.read_only()) co_await begun.error();         // it can be opened anew
  give_up_bitmaps(node.bitmaps());
  (void)co_await node.graph().set_active(node, false).result();
  co_await begun.error();
}

void add_with_children(BlockNode& node, Nodes& nodes) {
  for (const Edge* edge : node.driver().edges())
    if (!holds(nodes, &edge->node())) add_with_children(edge->node(), nodes);
  if (!holds(nodes, &node)) nodes.push_back(&node);
}

}  // namespace

Nodes inactivated_with(BlockNode& node) {
  Nodes all, going;
  add_with_children(node, all);
  std::reverse(all.begin(), all.end());          // parents before their children
  for (BlockNode* one : all)
    if (one == &node || (one->active() && !used_besides(*one, going))) going.push_back(one);
  return going;
}

Nodes activated_with(BlockNode& node) {
  Nodes all;
  add_with_children(node, all);
  std::reverse(all.begin(), all.end());
  std::erase_if(all, [](const BlockNode* one) { return one->active(); });
  return all;
}

Task<> inactivate(Nodes nodes) {
  std::vector<Graph::DrainGuard> drained;
  for (BlockNode* node : nodes) drained.push_back(co_await node->graph().drain_within(*node));
  for (BlockNode* node : nodes) co_await unwrap(check_one(*node, nodes));
  std::vector<Leaving> leaving;
  for (BlockNode* node : nodes) leaving.push_back({node, false, false, nullptr});
  const Result<> left = co_await leave(leaving).result();
  if (!left) {
    co_await come_back(leaving);
    co_await left.error();
  }
  for (const Leaving& one : leaving) {
    one.node->set_writes_when_active(one.writes);
    give_up_bitmaps(one.node->bitmaps());
  }
}

Task<> inactivate(BlockNode& node) {
  if (!node.active()) co_return;
  co_await inactivate(inactivated_with(node));
}

Task<> activate(BlockNode& node) {
  Nodes changed;
  const Nodes wanted = activated_with(node);
  std::vector<bool> writes;                      // when they are active; those that cannot be written now may be later
  for (const BlockNode* one : wanted) writes.push_back(one->writes_when_active());
  for (auto each = wanted.rbegin(); each != wanted.rend(); ++each) {
    const Result<> done = co_await activate_one(**each).result();
    if (done) {
      changed.insert(changed.begin(), *each);
      continue;
    }
    if (!changed.empty()) (void)co_await inactivate(changed).result();
    for (std::size_t i = 0; i < wanted.size(); ++i)
      if (!wanted[i]->active()) wanted[i]->set_writes_when_active(writes[i]);
    co_await done.error();
  }
  for (BlockNode* one : changed) one->set_writes_when_active(false);
}

}  // namespace tidemark
