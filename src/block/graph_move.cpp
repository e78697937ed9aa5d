// Moving connected nodes from one graph to another, which is on another thread.
#include <algorithm>

#include "block/graph.hpp"

namespace tidemark {
namespace {

void collect(BlockNode& node, std::vector<BlockNode*>& found) {
  if (std::find(found.begin(), found.end(), &node) != found.end()) return;
  found.push_back(&node);
  for (Edge* edge : node.driver().edges()) collect(edge->node(), found);
  for (Edge* user : node.parents())
    if (user->parent()) collect(*user->parent(), found);
}

bool settled(const std::vector<BlockNode*>& nodes) {
  return std::all_of(nodes.begin(), nodes.end(), [](const BlockNode* n) { return !n->tracking() || n->tracking()->settled(); });
}

}  // namespace

std::vector<BlockNode*> Graph::connected(BlockNode& node) const {
  std::vector<BlockNode*> found;
  collect(node, found);
  return found;
}

Result<> Graph::check_movable(BlockNode& node) const {
  for (BlockNode* member : connected(node)) {
    const auto in_use = [&](const std::string& by) {
      return Error(Errc::busy, "Node '" + member->name() + "' cannot change its thread: it is in use by " + by);
    };
    for (const Edge* user : member->parents_)
      if (!user->parent_) return in_use(user->describe_user());
    if (member->closing_) return in_use("its removal");
    for (const auto& bitmap : member->bitmaps_.all())
      if (bitmap->busy() || bitmap->in_group()) return in_use("who uses bitmap '" + bitmap->name() + "'");
    // Somebody has opened it just now and is about to use it.
    if (member->parents_.empty() && !member->options_.monitor_owned) return in_use("a command or job");
    if (std::find(drained_.begin(), drained_.end(), member) != drained_.end()) return in_use("a command or job");
  }
  return {};
}

Task<NodeList> Graph::take_out(BlockNode& node) {
  co_await unwrap(check_movable(node));
  std::vector<DrainGuard> idle;
  for (BlockNode* member : connected(node)) idle.push_back(co_await drain(*member));
  idle.clear();
  do {
    for (BlockNode* member : connected(node))
      if (member->tracking_) co_await member->tracking_->settle();
  } while (!settled(connected(node)));
  co_await unwrap(check_movable(node));                  // not by whom came meanwhile, either
  const std::vector<BlockNode*> members = connected(node);
  NodeList taken;
  for (auto at = nodes_.begin(); at != nodes_.end();) {
    const auto next = std::next(at);
    if (std::find(members.begin(), members.end(), at->get()) != members.end()) {
      TM_ASSERT((*at)->in_flight_ == 0);
      (*at)->driver_->leave();
      if ((*at)->tracking_) (*at)->tracking_->leave();
      by_name_.erase((*at)->name());
      taken.splice(taken.end(), nodes_, at);
    }
    at = next;
  }
  shape_changed();
  co_return std::move(taken);
}

void Graph::put_in(NodeList nodes) {
  for (auto& node : nodes) {
    node->graph_ = this;
    node->home_.move_to(reactor_);
    node->driver_->home().move_to(reactor_);
    node->driver_->arrive();
    if (node->tracking_) node->tracking_->arrive(reactor_);
    if (node->pinned_) has_pins_ = true;
    TM_ASSERT(by_name_.emplace(node->name(), node.get()).second);
  }
  nodes_.splice(nodes_.end(), nodes);
  shape_changed();
}

}  // namespace tidemark
