#include "control/external_snapshot.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/backing_names.hpp"
#include "control/bitmap_following.hpp"
#include "control/file_names.hpp"
#include "control/images_made.hpp"
#include "control/read_only.hpp"
#include "control/tracking_stores.hpp"
#include "io/file.hpp"

namespace tidemark {
namespace {

// On the nodes' thread.

Task<BlockNode*> find(Graph& graph, std::string name) { co_return co_await unwrap(graph.lookup(name)); }

Task<> check_not_below(const BlockNode& node) {
  for (const Edge* user : node.parents())
    if (user->role() == Role::backing)
      co_await Error(Errc::busy,
                     fmt::format("Node '{}' is busy: node is used as backing hd of '{}'", node.name(), user->parent()->name()));
}

Task<> check_legal(const Graph& graph, std::string name) { co_await unwrap(graph.check_name(name)); }

Result<> check_overlay(BlockNode& overlay) {
  for (const Edge* user : overlay.parents())
    if (user->permissions().uses & Permissions::consistent_read) return Error(Errc::busy, "The overlay is already in use");
  if (overlay.driver().is_filter()) return Error(Errc::invalid_argument, "Filters cannot be used as overlays");
  if (overlay.backing()) return Error(Errc::invalid_argument, "The overlay already has a backing image");
  if (!overlay.driver().backing_place()) return Error(Errc::invalid_argument, "The overlay does not support backing images");
  return {};
}

Task<> flush(BlockNode& node) {
  if (node.read_only()) co_return;
  const Result<> flushed = co_await node.driver().flush().result();
  if (!flushed) co_await Error(flushed.error().code(), "An IO error has occurred", flushed.error().os_errno());
}

Task<std::unique_ptr<Edge>> keep(BlockNode& overlay) {
  const Permissions nothing{Permissions::none, Permissions::all};
  co_return co_await unwrap(Edge::attach(overlay, Role::filtered, nothing, "a snapshot"));
}

Task<> release(BlockNode& overlay, std::unique_ptr<Edge>& kept) {
  kept.reset();
  co_await overlay.graph().release(overlay);
}

// Those that use the overlay instead of the node now.
Task<std::vector<Edge*>> put_on_top(BlockNode& node, BlockNode& overlay) {
  co_await unwrap(check_overlay(overlay));
  const std::vector<Edge*> users = node.parents();
  Graph& graph = node.graph();
  if (overlay.read_only() && !graph.check_no_writer(node))
    co_await Error(Errc::permission, fmt::format("Read-only block node '{}' cannot support read-write users", overlay.name()), EROFS);
  co_await unwrap(graph.set_backing(overlay, &node));
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

// Some may be gone by now.  What was together on the node before can be so again.
Task<> take_off(BlockNode& node, BlockNode& overlay, const std::vector<Edge*>& moved) {
  TM_ASSERT(node.graph().set_backing(overlay, nullptr).ok());
  const std::vector<Edge*> users = overlay.parents();
  for (Edge* user : users)
    if (std::find(moved.begin(), moved.end(), user) != moved.end()) TM_ASSERT(user->retarget(node).ok());
  co_return;
}

Task<> make_file(BlockNode& node, std::string path, std::string format) {
  BackingFile backing;
  backing.file = co_await file_name_of(node);
  backing.format = node.driver().name();
  co_await create_overlay_file(node.graph(), std::move(path), std::move(format), node.size(), std::move(backing));
}

// As the node below it was opened, and without what its own header names.
Task<BlockNode*> open_file(const BlockNode& node, const schema::BlockdevSnapshotSync& arguments) {
  const std::string format = arguments.format.value_or("qcow2");
  schema::BlockdevOptions image = co_await unwrap(describe_backing("", arguments.snapshot_file, format));
  image.node_name = arguments.snapshot_node_name;
  image.read_only = node.read_only();
  image.discard = node.options().discard ? schema::BlockdevDiscardOptions::unmap : schema::BlockdevDiscardOptions::ignore;
  schema::BlockdevCacheOptions cache;
  cache.direct = node.options().cache_direct;
  cache.no_flush = node.options().cache_no_flush;
  image.cache = cache;
  if (auto* qcow2 = std::get_if<schema::BlockdevOptionsQcow2>(&image.branch)) qcow2->backing.emplace().value = nullptr;
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(std::move(image));
  NodeOpener opener(node.graph());
  co_return co_await opener.resolve(std::move(reference));
}

Task<> commit_all(Transaction& changes) {
  changes.commit();
  co_return;
}

Task<> freeze(BlockNode& node) {
  if (!node.read_only()) co_await set_read_only(node, true);
}

class ExternalSnapshot : public TransactionAction {
 public:
  ExternalSnapshot(Homes& homes, JobManager& jobs, std::string node) : homes_(homes), jobs_(jobs), name_(std::move(node)) {}

  std::vector<std::string> nodes() const override { return {name_}; }
  Task<> make_durable() override { return homes_.at(*place_, save_tracking(*overlay_)); }
  Task<> commit() override { return homes_.at(*place_, commit_all(bitmaps_)); }
  // What fails here is told, and harms nobody: the node is not written any more, whatever it could be.
  Task<> begin() override {
    (void)co_await homes_.at(*place_, freeze(*node_)).result();
    co_await let_go();
  }
  Task<> abort() override {
    if (overlay_) co_await homes_.at(*place_, undo_bitmaps());
    if (on_top_) co_await homes_.at(*place_, take_off(*node_, *overlay_, moved_));
    if (overlay_) co_await let_go();
  }

 protected:
  Task<> find_node() {
    place_ = co_await homes_.lookup(name_);
    node_ = co_await homes_.at(*place_, find(place_->graph, name_));
    co_await homes_.at(*place_, check_not_below(*node_));
    co_await jobs_.check_unused(*node_, place_->reactor);
    co_await homes_.at(*place_, flush(*node_));
  }
  Task<> put() {
    kept_ = co_await homes_.at(*place_, keep(*overlay_));
    moved_ = co_await homes_.at(*place_, put_on_top(*node_, *overlay_));
    on_top_ = true;
    co_await homes_.at(*place_, continue_bitmaps(*node_, *overlay_, bitmaps_));
  }

  Homes& homes_;
  JobManager& jobs_;
  const std::string name_;
  Place* place_ = nullptr;
  BlockNode* node_ = nullptr;
  BlockNode* overlay_ = nullptr;

 private:
  Task<> undo_bitmaps() {
    bitmaps_.abort();
    co_await forget_dropped(*overlay_);
  }
  // Of an overlay that nobody uses and nobody has added.
  Task<> let_go() { (void)co_await homes_.at(*place_, release(*overlay_, kept_)).result(); }

  std::unique_ptr<Edge> kept_;                     // the overlay stays, whoever else lets go of it meanwhile
  Transaction bitmaps_;
  bool on_top_ = false;
  std::vector<Edge*> moved_;
};

class NodeSnapshot final : public ExternalSnapshot {
 public:
  NodeSnapshot(Homes& homes, JobManager& jobs, schema::BlockdevSnapshot arguments)
      : ExternalSnapshot(homes, jobs, std::move(arguments.node)), overlay_name_(std::move(arguments.overlay)) {}

  Task<> gather() override {
    std::vector<std::string> names{name_, overlay_name_};
    const auto gathered = co_await homes_.gather(std::move(names)).result();
    if (!gathered) apart_ = gathered.error();
    else (void)co_await homes_.at(**gathered, make_ready((*gathered)->graph)).result();
  }
  Task<> prepare() override {
    co_await find_node();
    const Place* place = co_await homes_.lookup(overlay_name_);
    if (place != place_ && apart_) co_await *apart_;
    overlay_ = co_await homes_.at(*place_, find(place_->graph, overlay_name_));
    co_await put();
  }

 private:
  // What fails here fails again, and is told.
  Task<> make_ready(Graph& graph) {
    BlockNode* node = co_await find(graph, name_);
    BlockNode* overlay = co_await find(graph, overlay_name_);
    const Result<> legal = check_overlay(*overlay);
    if (legal) co_await prepare_to_follow(*node, *overlay);
  }

  const std::string overlay_name_;
  std::optional<Error> apart_;                     // why they are not on one thread
};

class FileSnapshot final : public ExternalSnapshot {
 public:
  FileSnapshot(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotSync arguments)
      : ExternalSnapshot(homes, jobs, arguments.node_name.value_or("")), arguments_(std::move(arguments)) {}

  Task<> prepare() override {
    const Place* there = co_await homes_.find(name_);
    if (!there)
      co_await Error(Errc::not_found, fmt::format("Cannot find device='{}' nor node-name='{}'", arguments_.device.value_or(""), name_));
    co_await find_node();
    co_await check_name();
    if (arguments_.mode != schema::NewImageMode::existing) co_await make();
    overlay_ = co_await homes_.at(*place_, open_file(*node_, arguments_));
    co_await put();
  }
  Task<> abort() override {
    co_await ExternalSnapshot::abort();
    if (made_) (void)co_await fs::unlink(homes_.main().reactor, arguments_.snapshot_file).result();
  }

 private:
  Task<> check_name() {
    const auto& name = arguments_.snapshot_node_name;
    if (!name) co_await Error(Errc::invalid_argument, "New overlay node-name missing");
    const Place* taken = co_await homes_.find(*name);
    if (taken) co_await Error(Errc::exists, "New overlay node-name already in use");
    co_await homes_.at(*place_, check_legal(place_->graph, *name));
  }
  // A file that was there before is not brought back: what was in it is gone, as it is once it is asked for.
  Task<> make() {
    const bool there = co_await fs::exists(homes_.main().reactor, arguments_.snapshot_file);
    made_ = !there;                                      // in part, if it fails
    co_await homes_.at(*place_, make_file(*node_, arguments_.snapshot_file, arguments_.format.value_or("qcow2")));
    co_await remove_store_left_over(homes_.main().reactor, arguments_.snapshot_file);
  }

  const schema::BlockdevSnapshotSync arguments_;
  bool made_ = false;
};

}  // namespace

std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshot arguments) {
  return std::make_unique<NodeSnapshot>(homes, jobs, std::move(arguments));
}

std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotSync arguments) {
  return std::make_unique<FileSnapshot>(homes, jobs, std::move(arguments));
}

}  // namespace tidemark
