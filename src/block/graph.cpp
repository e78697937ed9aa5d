#include "block/graph.hpp"

#include <algorithm>
#include <cctype>

#include "block/permission_update.hpp"
#include "task/detached.hpp"
#include "task/group.hpp"

namespace tidemark {

Graph::~Graph() { TM_ASSERT(nodes_.empty() && drained_.empty() && left_behind_.count() == 0); }

BlockNode* Graph::find(std::string_view name) noexcept {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

BlockNode* Graph::pin(std::string_view name) noexcept {
  BlockNode* node = find(name);
  if (node) node->pinned_ = has_pins_ = true;
  return node;
}

namespace {

constexpr Duration closing_max = std::chrono::seconds(1);        // that the end of a command waits for: storage may hang

Task<> release_and_tell(Graph& graph, BlockNode& node, std::shared_ptr<CancelSource> released) {
  (void)co_await graph.release(node).result();
  released->request();
}

}  // namespace

Task<> Graph::unpin() {
  has_pins_ = false;
  for (;;) {
    const auto pinned = std::find_if(nodes_.begin(), nodes_.end(), [](const auto& n) { return n->pinned_ && !n->closing_; });
    if (pinned == nodes_.end()) co_return;                // found anew each time, for nodes go
    BlockNode& node = **pinned;
    node.pinned_ = false;
    // Nobody has let go of it else: who uses it need not have an edge.
    if (!std::exchange(node.to_release_, false)) continue;
    const auto released = std::make_shared<CancelSource>();
    run_detached(release_and_tell(*this, node, released), left_behind_.enter());
    if (!released->requested()) (void)co_await reactor_.sleep(closing_max, released->token()).result();
  }
}

Result<BlockNode*> Graph::lookup(std::string_view name) {
  if (BlockNode* node = pin(name)) return node;
  return Error(Errc::not_found,
               "Cannot find device='" + std::string(name) + "' nor node-name='" + std::string(name) + "'");
}

// QEMU's identifiers: a letter, then letters, digits, '-', '.', '_'; at most 31 characters.
Result<> Graph::check_name(std::string_view name) const {
  constexpr std::size_t name_max = 31;
  auto legal = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_'; };
  const bool well_formed = !name.empty() && std::isalpha(static_cast<unsigned char>(name[0])) &&
                           std::all_of(name.begin(), name.end(), legal);
  if (!well_formed) return Error(Errc::invalid_argument, "Invalid node-name: '" + std::string(name) + "'");
  if (name.size() > name_max) return Error(Errc::invalid_argument, "Node name too long");
  if (by_name_.contains(name))
    return Error(Errc::exists, "Duplicate nodes with node-name='" + std::string(name) + "'");
  return {};
}

Result<> Graph::rename(BlockNode& node, std::string name) {
  if (auto ok = check_name(name); !ok) return ok;
  by_name_.erase(node.name());
  node.options_.name = std::move(name);
  by_name_.emplace(node.name(), &node);
  return {};
}

Task<BlockNode*> Graph::add(NodeOptions options, std::unique_ptr<BlockDriver> driver) {
  Result<> ok;
  if (options.name.empty()) options.name = "#block" + std::to_string((*next_generated_)++);
  else ok = check_name(options.name);
  if (ok && driver->size() > align_down(max_disk_size, sector_size))
    ok = Error(Errc::out_of_range, "node '" + options.name + "': " + std::to_string(driver->size()) +
                                       " bytes are more than a disk can have");
  std::unique_ptr<BlockNode> node(new BlockNode(*this, std::move(options), std::move(driver)));
  for (Edge* edge : node->driver_->edges()) {
    edge->parent_ = node.get();
    const BlockNode& child = edge->node();
    if (ok && node->active() && !child.active())
      ok = Error(Errc::busy, "Node '" + child.name() + "' is inactive; activate it with blockdev-set-active first");
  }
  if (ok) {
    PermissionUpdate update;
    ok = update.refresh(*node);
    if (ok) update.commit();
  }
  if (!ok) {
    (void)co_await node->driver_->close().result();
    co_await ok.error();
  }
  BlockNode* added = node.get();
  by_name_.emplace(added->name(), added);
  nodes_.push_back(std::move(node));
  shape_changed();
  co_return added;
}

Task<> Graph::close_node(BlockNode& node) {
  if (std::exchange(node.closing_, true)) co_return;
  by_name_.erase(node.name());                           // nobody finds it from here on
  // Who holds it drained has found it before.
  while (std::find(drained_.begin(), drained_.end(), &node) != drained_.end()) co_await unquiesced_.wait();
  { auto guard = co_await drain(node); }                 // somebody may be asking it something
  std::vector<BlockNode*> children;
  for (Edge* edge : node.driver_->edges()) children.push_back(&edge->node());
  const std::unique_ptr<NodeTracking> tracking = std::move(node.tracking_);
  Result<> first;
  if (tracking) first = co_await tracking->before_close().result();
  if (node.unflushed_ && node.driver_->flush_at_close()) {
    const Result<> flushed = co_await node.make_durable().result();
    if (first) first = flushed;
  }
  auto closed = co_await node.driver_->close().result();
  node.driver_.reset();                                  // and with it its edges
  std::erase_if(nodes_, [&](const auto& n) { return n.get() == &node; });
  shape_changed();
  if (first) first = closed;
  for (BlockNode* child : children) {
    const bool present = std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& n) { return n.get() == child; });
    if (!present) continue;
    auto released = co_await release(*child).result();
    if (first && !released) first = released;
  }
  if (tracking) {
    auto ended = co_await tracking->after_close().result();
    if (first && !ended) first = ended;
  }
  if (!first) co_await first.error();
}

Task<> Graph::remove(BlockNode& node) {
  if (!node.parents().empty())
    co_await Error(Errc::busy, "Node " + node.name() + " is in use");
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->busy()) co_await Error(Errc::busy, "Node " + node.name() + " is in use: its bitmap '" + bitmap->name() + "' is");
  co_await close_node(node);
}

Task<> Graph::release(BlockNode& node) {
  if (!node.parents().empty() || node.options().monitor_owned) co_return;
  if (node.pinned_) node.to_release_ = true;
  else co_await close_node(node);
}

Task<> Graph::close_all() {
  Result<> first;
  for (;;) {
    auto top = std::find_if(nodes_.begin(), nodes_.end(), [](const auto& n) { return n->parents().empty(); });
    if (top == nodes_.end()) break;
    if ((*top)->closing_) {                              // by another, who is waiting for it
      co_await unquiesced_.wait();
      continue;
    }
    auto closed = co_await close_node(**top).result();
    if (first && !closed) first = closed;
  }
  TM_ASSERT(nodes_.empty());
  has_pins_ = false;
  co_await left_behind_.wait_idle();
  if (!first) co_await first.error();
}

Task<> Graph::close_unused(const InUse& in_use) {
  auto closing = [&](TaskGroup& group) -> Task<> {
    begin_to_close(group, in_use);
    co_await group.join();
  };
  co_await with_group(reactor_, closing);
}

void Graph::begin_to_close(TaskGroup& group, const InUse& in_use) {
  const auto unused = [&](const auto& node) {
    if (node->closing_ || !node->options().monitor_owned || !node->parents().empty() || in_use(*node)) return false;
    const auto& bitmaps = node->bitmaps().all();
    return std::none_of(bitmaps.begin(), bitmaps.end(), [](const auto& bitmap) { return bitmap->busy(); });
  };
  for (;;) {
    const auto found = std::find_if(nodes_.begin(), nodes_.end(), unused);
    if (found == nodes_.end()) return;
    group.spawn(close_and_go_on(**found, group, in_use));
  }
}

Task<> Graph::close_and_go_on(BlockNode& node, TaskGroup& group, const InUse& in_use) {
  (void)co_await close_node(node).result();
  begin_to_close(group, in_use);
}

Task<> Graph::cancel_in_flight(BlockNode& node) {
  const InFlight here(node);
  co_await node.driver_->cancel_in_flight();
  std::vector<BlockNode*> children;
  for (const Edge* edge : node.driver_->edges())
    if (edge->role() != Role::backing) children.push_back(&edge->node());
  for (BlockNode* child : children) co_await cancel_in_flight(*child);
}

Task<> Graph::cancel_all_in_flight() {
  openings_.request();
  std::vector<std::string> names;                        // nodes come and go meanwhile
  for (const auto& [name, node] : by_name_) names.push_back(name);
  for (const std::string& name : names)
    if (BlockNode* node = find(name)) co_await cancel_in_flight(*node);
}

bool Graph::reaches(const BlockNode& from, const BlockNode& to) const noexcept {
  if (&from == &to) return true;
  if (!from.driver_) return false;
  for (const Edge* edge : from.driver_->edges())
    if (edge->node_ && reaches(*edge->node_, to)) return true;
  return false;
}

void Graph::look_for_layers() noexcept {
  ++chain_epoch_;
  for (auto& node : nodes_) node->stood_on_ = false;
  for (auto& node : nodes_)
    for (BlockNode* layer = node->driver_ ? node->backing() : nullptr; layer; layer = layer->filtered()) layer->stood_on_ = true;
}

// At rest is what is drained, and what stands on it.  A node may have gone before who drained it lets go.
void Graph::shape_changed() noexcept {
  look_for_layers();
  std::vector<BlockNode*> at_rest;
  for (auto& node : nodes_) {
    node->quiesced_ = false;
    if (std::find(drained_.begin(), drained_.end(), node.get()) != drained_.end()) at_rest.push_back(node.get());
  }
  while (!at_rest.empty()) {
    BlockNode* const node = at_rest.back();
    at_rest.pop_back();
    if (std::exchange(node->quiesced_, true)) continue;
    for (const Edge* user : node->parents_)
      if (user->parent_) at_rest.push_back(user->parent_);
  }
  unquiesced_.notify_all();
}

Graph::DrainGuard::~DrainGuard() {
  if (!graph_) return;
  graph_->drained_.erase(place_);
  graph_->shape_changed();
}

Task<Graph::DrainGuard> Graph::drain(BlockNode& node, CancelToken token) {
  DrainGuard guard(*this, drained_.insert(drained_.end(), &node));
  shape_changed();
  auto busy = [&](const auto& n) { return n->in_flight() != 0 && reaches(*n, node); };
  while (std::any_of(nodes_.begin(), nodes_.end(), busy)) co_await idle_.wait(token);
  co_return std::move(guard);
}

Task<Graph::DrainGuard> Graph::drain_within(BlockNode& node, Duration limit) {
  CancelSource late;
  const auto expire = [this, limit, &late](CancelToken token) -> Task<> {
    co_await reactor_.sleep(limit, token);
    late.request();
  };
  const auto in_time = [&](TaskGroup& group) -> Task<DrainGuard> {
    group.spawn(expire(group.token()));
    co_return co_await drain(node, late.token());
  };
  const std::string name = node.name();
  auto drained = co_await with_group(reactor_, in_time).result();
  if (!drained && late.requested())
    co_await Error(Errc::timed_out, "Node '" + name + "' cannot be brought to rest: requests have been under way for " +
                                        std::to_string(limit / std::chrono::seconds(1)) + " s");
  co_return co_await unwrap(std::move(drained));
}

void Graph::refresh_limits(BlockNode& node) {
  node.limits_ = node.driver_->limits();
  for (const Edge* user : node.parents_)
    if (user->parent_) refresh_limits(*user->parent_);
}

Result<> Graph::replace(BlockNode& from, BlockNode& to) {
  if (to.closing_) return Error(Errc::not_found, "Node '" + to.name() + "' is being removed");
  PermissionUpdate update;
  const std::vector<Edge*> users = from.parents_;
  for (Edge* user : users)
    if (!user->parent_ || !reaches(to, *user->parent_)) update.move(*user, &to);   // else that would close a loop
  if (auto ok = update.refresh(from); !ok) return ok;
  if (auto ok = update.refresh(to); !ok) return ok;
  update.commit();
  refresh_limits(to);
  shape_changed();
  return {};
}

Result<> Graph::set_backing(BlockNode& overlay, BlockNode* backing) {
  std::unique_ptr<Edge>* const place = overlay.driver_->backing_place();
  if (!place)
    return Error(Errc::unsupported, "Driver '" + std::string(overlay.driver_->name()) + "' of node '" + overlay.name() +
                                        "' does not support backing files");
  if (backing && reaches(*backing, overlay))
    return Error(Errc::invalid_argument, "Making '" + backing->name() + "' a backing child of '" + overlay.name() +
                                             "' would create a cycle");
  const Permissions nothing{0, Permissions::all};
  std::unique_ptr<Edge> edge;
  if (backing) {
    auto attached = Edge::attach(*backing, Role::backing, nothing, {});
    if (!attached) return attached.error();
    edge = std::move(*attached);
    edge->parent_ = &overlay;
  }
  std::swap(*place, edge);                               // the old one's users are fewer from here on, if all is well
  PermissionUpdate update;
  if (auto ok = update.refresh(overlay); !ok) {
    std::swap(*place, edge);
    return ok;
  }
  update.commit();
  edge.reset();
  overlay.options_.backing_found = false;
  refresh_limits(overlay);
  shape_changed();
  return {};
}

}  // namespace tidemark
