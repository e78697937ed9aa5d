#include "control/snapshots/snapshot_revert.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "base/paths.hpp"
#include "block/status.hpp"
#include "control/graph/size_change.hpp"
#include "control/nodes/read_only.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "control/snapshots/idle_disk.hpp"
#include "control/snapshots/overlay_nodes.hpp"
#include "format/qcow2/driver.hpp"
#include "io/file.hpp"
#include "io/owner.hpp"
#include "storage/file_driver.hpp"

namespace tidemark {
namespace {

// On the nodes' thread.

Task<> check_image(const BlockNode& node) {
  if (node.driver().name() != "qcow2")
    co_await Error(Errc::unsupported, fmt::format("Node '{}' is no qcow2 image: it has no snapshots", node.name()));
  if (node.read_only()) co_await Error(Errc::permission, fmt::format("Node '{}' is read-only", node.name()), EROFS);
  co_await check_not_below(node);
  co_await unwrap(check_no_bitmaps_above(node));
}

Task<std::vector<BlockNode*>> layers_of(BlockNode& node) {
  std::vector<BlockNode*> layers;
  for (BlockNode* at = &node; at;) {
    layers.push_back(at);
    BlockNode* below = at->backing();
    at = below ? below : at->filtered();
  }
  co_return std::move(layers);
}

// The name by which the file was opened.
Task<std::string> file_to_replace(BlockNode& node) {
  const auto refuse = [&node](std::string_view why) {
    return Error(Errc::unsupported, fmt::format("The file of node '{}' cannot be replaced: {}", node.name(), why));
  };
  const auto& image = static_cast<const Qcow2Driver&>(node.driver());
  const BlockNode& file = node.child(Role::file)->node();
  if (file.driver().name() != "file") co_await refuse("it is no regular file");
  if (file.options().monitor_owned)
    co_await refuse(fmt::format("node '{}', which was added by itself, would still be the old one", file.name()));
  if (image.needs_data_file()) co_await refuse("the image keeps its data in a file of its own");
  if (const auto kept = image.snapshots(); !kept.empty())
    co_await refuse(fmt::format("the image keeps the internal snapshot '{}', which would be lost; delete it first", kept.front().name));
  co_await unwrap(check_bitmaps_free(node));
  co_return static_cast<const FileDriver&>(file.driver()).path();
}

// Stored as if the node were closed.
Task<> end_tracking(BlockNode& node, std::unique_ptr<NodeTracking>& tracking) {
  co_await save_tracking(node);
  tracking = node.take_tracking();
  if (!tracking) co_return;
  co_await tracking->before_close();
  co_await tracking->after_close();
}

Task<> rename(BlockNode& overlay, std::string path) {
  BlockNode& file = overlay.child(Role::file)->node();
  static_cast<FileDriver&>(file.driver()).renamed(path);
  Json given = file.options().given;
  given.set("filename", path);
  Json image = overlay.options().given;
  image.set("file", given);
  file.set_given(std::move(given), file.options().read_only_fixed);
  overlay.set_given(std::move(image), overlay.options().read_only_fixed);
  co_return;
}

Task<> remove(BlockNode& overlay, std::unique_ptr<Edge>& kept) {
  kept.reset();
  co_await overlay.graph().remove(overlay);
}

Task<> remove_if_unused(Graph& graph, std::string name, bool gone) {
  BlockNode* node = graph.find(name);
  if (node && node->parents().empty() && (gone || !node->options().monitor_owned)) co_await graph.remove(*node);
}

class Revert : public TransactionAction {
 public:
  Revert(Homes& homes, JobManager& jobs, Exports& exports, std::string node)
      : homes_(homes), jobs_(jobs), name_(std::move(node)), idle_(homes, exports) {}

  std::vector<std::string> nodes() const override { return {name_}; }
  Task<> overwrite() override { co_await unwrap(idle_.close()); }
  Task<> commit() override { return idle_.renew(); }
  Task<> begin() override {
    idle_.open();
    co_return;
  }
  Task<> abort() override {
    idle_.open();
    co_return;
  }

 protected:
  Task<> find_disk() {
    place_ = co_await homes_.lookup(name_);
    node_ = co_await homes_.at(*place_, find_node(place_->graph, name_));
    layers_ = co_await homes_.at(*place_, layers_of(*node_));
    for (const BlockNode* layer : layers_) co_await jobs_.check_unused(*layer, place_->reactor);
    co_await homes_.at(*place_, check_image(*node_));
    co_await idle_.find(*place_, *node_);
    co_await homes_.at(*place_, flush_for_snapshot(*node_));
  }

  Homes& homes_;
  JobManager& jobs_;
  const std::string name_;
  IdleDisk idle_;
  Place* place_ = nullptr;
  BlockNode* node_ = nullptr;
  std::vector<BlockNode*> layers_;                 // the topmost first
};

// The overlay is made under another name, and gets its own when all else is done.
class LayerRevert final : public Revert {
 public:
  LayerRevert(Homes& homes, JobManager& jobs, Exports& exports, std::string node, schema::SnapshotRevertDiscard wanted,
              std::optional<std::string> file, Result<>& durable)
      : Revert(homes, jobs, exports, std::move(node)), wanted_(std::move(wanted)), replaces_(!file), path_(file.value_or("")),
        durable_(durable) {}

  // The snapshot, too: the disk stands on it alone in the end, and is at rest until then.
  std::vector<std::string> nodes() const override { return {name_, wanted_.snapshot}; }
  Task<> prepare() override {
    co_await find_disk();
    BlockNode* below = co_await find_layer();
    co_await find_file();
    co_await check_name();
    co_await make(*below);
    co_await open();
    kept_ = co_await homes_.at(*place_, keep_overlay(*overlay_));
    moved_ = co_await homes_.at(*place_, put_in_place(*node_, *overlay_, *below));
    in_place_ = true;
    if (replaces_) co_await homes_.at(*place_, end_tracking(*node_, tracking_));
  }
  Task<> overwrite() override {
    co_await Revert::overwrite();
    Reactor& reactor = homes_.main().reactor;
    co_await check_named(reactor, made_);
    co_await fs::rename(reactor, partial_, file_, !replaces_);
    (void)co_await maker_.close().result();
    const Result<> synced = co_await fs::sync_dir(reactor, std::filesystem::path(file_).parent_path() / ".").result();
    if (!synced && synced.error().code() != Errc::permission) durable_ = synced;     // one that may not be read cannot be
  }
  Task<> commit() override {
    tracking_.reset();
    co_await homes_.at(*place_, rename(*overlay_, path_));
    co_await remove_store_left_over(homes_.main().reactor, file_);
    co_await Revert::commit();
  }
  Task<> begin() override {
    (void)co_await homes_.at(*place_, release_overlay(*overlay_, kept_)).result();
    co_await Revert::begin();
  }
  Task<> abort() override {
    if (tracking_) co_await homes_.at(*place_, resume_tracking(*node_, *tracking_));
    if (in_place_) co_await homes_.at(*place_, take_out_of_place(*node_, *overlay_, moved_));
    if (overlay_) (void)co_await homes_.at(*place_, remove(*overlay_, kept_)).result();
    (void)co_await undo_create_file(homes_.main().reactor, made_).result();
    (void)co_await maker_.close().result();
    co_await Revert::abort();
  }

 private:
  Task<BlockNode*> find_layer() {
    const auto is_it = [this](const BlockNode* layer) { return layer != node_ && layer->name() == wanted_.snapshot; };
    const auto found = std::find_if(layers_.begin(), layers_.end(), is_it);
    if (found == layers_.end())
      co_await Error(Errc::not_found, fmt::format("Node '{}' is not below node '{}'", wanted_.snapshot, name_));
    co_return &skip_filters(**found);
  }

  Task<> find_file() {
    if (replaces_) path_ = co_await homes_.at(*place_, file_to_replace(*node_));
    file_ = replaces_ ? real_path(path_) : path_;
    partial_ = file_ + ".tidemark-partial";
    if (replaces_) co_return;
    const bool there = co_await fs::exists(homes_.main().reactor, file_);
    if (there) co_await Error(Errc::exists, fmt::format("'{}' exists; choose another name", file_));
  }

  Task<> check_name() {
    const Place* taken = co_await homes_.find(wanted_.overlay_node_name);
    if (taken) co_await Error(Errc::exists, "New overlay node-name already in use");
  }

  Task<> make(BlockNode& below) {
    made_ = co_await create_partial(homes_.main().reactor, partial_, maker_);
    co_await homes_.at(*place_, make_overlay_file(below, partial_, "qcow2"));
    if (replaces_) co_await unwrap(take_over_owner(file_, partial_));
  }

  Task<> open() {
    OverlayLike like = overlay_like(*node_);
    like.node_name = wanted_.overlay_node_name;
    if (node_->options().monitor_owned) like.owner = Owner::monitor;
    overlay_ = co_await homes_.at(*place_, open_overlay_file(place_->graph, partial_, "qcow2", std::move(like)));
  }

  const schema::SnapshotRevertDiscard wanted_;
  const bool replaces_;
  std::string path_, file_, partial_;              // as nodes are told; what that leads to; where it is made
  Result<>& durable_;
  CreatedFile made_;                               // nothing to undo until it is
  File maker_;
  bool in_place_ = false;
  BlockNode* overlay_ = nullptr;
  std::unique_ptr<Edge> kept_;
  std::vector<Edge*> moved_;
  std::unique_ptr<NodeTracking> tracking_;         // of the node, which has ended
};

// On the node's thread.

Task<> check_applicable(BlockNode& node, std::string wanted) {
  const auto found = static_cast<const Qcow2Driver&>(node.driver()).find_snapshot(wanted);
  co_await unwrap(found);
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->persistent())
      co_await Error(Errc::busy, fmt::format("Node '{}' has persistent bitmaps, '{}' for one, that would not know what changes; remove "
                                             "them first", node.name(), bitmap->name()));
  co_await unwrap(check_bitmaps_free(node));
}

Task<> apply(BlockNode& node, std::string wanted) {
  co_await static_cast<Qcow2Driver&>(node.driver()).apply_snapshot(std::move(wanted));
  for (const auto& bitmap : node.bitmaps().all()) bitmap->set_inconsistent("the disk went back to a snapshot");
  node.bitmaps().truncate(node.size());
  if (node.tracking()) node.tracking()->resized(node.size());
  node.graph().content_replaced(node);
}

class InternalRevert final : public Revert {
 public:
  InternalRevert(Homes& homes, JobManager& jobs, Exports& exports, std::string node, schema::SnapshotRevertInternal wanted)
      : Revert(homes, jobs, exports, std::move(node)), wanted_(std::move(wanted)) {}

  Task<> prepare() override {
    co_await find_disk();
    co_await homes_.at(*place_, check_applicable(*node_, wanted_.snapshot));
  }
  Task<> overwrite() override {
    co_await Revert::overwrite();
    co_await homes_.at(*place_, apply(*node_, wanted_.snapshot));
  }

 private:
  const schema::SnapshotRevertInternal wanted_;
};

}  // namespace

std::unique_ptr<TransactionAction> make_revert_action(Homes& homes, JobManager& jobs, Exports& exports,
                                                      schema::BlockdevSnapshotRevert arguments, Result<>& durable) {
  std::string& node = arguments.node_name;
  if (auto* inside = std::get_if<schema::SnapshotRevertInternal>(&arguments.branch))
    return std::make_unique<InternalRevert>(homes, jobs, exports, std::move(node), std::move(*inside));
  std::optional<std::string> file;
  if (auto* overlay = std::get_if<schema::SnapshotRevertOverlay>(&arguments.branch)) {
    file = overlay->overlay_file;
    return std::make_unique<LayerRevert>(homes, jobs, exports, std::move(node), *overlay, std::move(file), durable);
  }
  auto& discard = std::get<schema::SnapshotRevertDiscard>(arguments.branch);
  return std::make_unique<LayerRevert>(homes, jobs, exports, std::move(node), std::move(discard), std::move(file), durable);
}

Task<> let_go_of_reverted(Homes& homes, std::string node, bool gone) {
  Place* place = co_await homes.find(node);
  if (place) (void)co_await homes.at(*place, remove_if_unused(place->graph, std::move(node), gone)).result();
}

}  // namespace tidemark
