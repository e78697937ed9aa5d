#include "control/snapshots/external_snapshot.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/bitmaps/bitmap_following.hpp"
#include "control/nodes/images_made.hpp"
#include "control/nodes/read_only.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "control/snapshots/image_ahead.hpp"
#include "control/snapshots/overlay_nodes.hpp"
#include "job/disk_use.hpp"

namespace tidemark {
namespace {

constexpr Duration still_max = std::chrono::milliseconds(500);    // that guests wait for an overlay that is in use
constexpr Duration look_again = std::chrono::milliseconds(5);

// On the nodes' thread.

Task<> check_legal(const Graph& graph, std::string name) { co_await unwrap(graph.check_name(name)); }

Task<> give_name(BlockNode& node, std::string name) { co_await unwrap(node.graph().rename(node, std::move(name))); }

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
    if (on_top_) co_await homes_.at(*place_, take_out_of_place(*node_, *overlay_, moved_));
    if (overlay_) co_await let_go();
  }

 protected:
  Task<> find_disk() {
    place_ = co_await homes_.lookup(name_);
    node_ = co_await homes_.at(*place_, find_node(place_->graph, name_));
    co_await homes_.at(*place_, check_not_below(*node_));
    co_await jobs_.check_unused(*node_, place_->reactor);
  }
  Task<> flush() { return homes_.at(*place_, flush_for_snapshot(*node_)); }
  Task<> put() {
    kept_ = co_await homes_.at(*place_, keep_overlay(*overlay_));
    moved_ = co_await homes_.at(*place_, put_in_place(*node_, *overlay_, *node_));
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
  Task<> let_go() { (void)co_await homes_.at(*place_, release_overlay(*overlay_, kept_)).result(); }

  std::unique_ptr<Edge> kept_;                     // the overlay stays, whoever else lets go of it meanwhile
  Transaction bitmaps_;
  bool on_top_ = false;
  std::vector<Edge*> moved_;
};

// The overlay may be a mirror's target: the copy is paused before guests have to wait for anything, and then they wait for what they
// write to both themselves at most.
class NodeSnapshot final : public ExternalSnapshot {
 public:
  NodeSnapshot(Homes& homes, JobManager& jobs, schema::BlockdevSnapshot arguments)
      : ExternalSnapshot(homes, jobs, std::move(arguments.node)), overlay_name_(std::move(arguments.overlay)) {}

  Task<> gather() override {
    std::vector<std::string> names{name_, overlay_name_};
    const auto gathered = co_await homes_.gather(std::move(names)).result();
    if (!gathered) apart_ = gathered.error();
    else together_ = *gathered;
  }
  Task<> ahead(OpenedAhead&) override {
    if (!together_) co_return;
    const Result<> legal = co_await homes_.at(*together_, make_ready(together_->graph)).result();
    if (legal) (void)co_await pause_copies().result();
  }
  Task<> prepare() override {
    co_await find_disk();
    co_await flush();
    const Place* place = co_await homes_.lookup(overlay_name_);
    if (place != place_ && apart_) co_await *apart_;
    overlay_ = co_await homes_.at(*place_, find_node(place_->graph, overlay_name_));
    if (!at_work(paused_)) co_await homes_.at(*place_, bring_overlay_to_rest());
    else co_await does_not_rest();
    co_await put();
  }
  Task<> begin() override {
    co_await ExternalSnapshot::begin();
    co_await homes_.at(*place_, let_overlay_go_on());
  }
  Task<> abort() override {
    co_await ExternalSnapshot::abort();
    if (overlay_) co_await homes_.at(*place_, let_overlay_go_on());
  }
  Task<> clean() override {
    for (const auto& job : paused_) job->resume();
    paused_.clear();
    co_return;
  }

 private:
  using Jobs = std::vector<std::shared_ptr<ManagedJob>>;

  static bool at_work(const Jobs& jobs) {
    const auto works = [](const auto& job) { return job->status() == JobStatus::running || job->status() == JobStatus::ready; };
    return std::any_of(jobs.begin(), jobs.end(), works);
  }
  Task<> pause_copies() {
    const BlockNode* overlay = co_await homes_.at(*together_, find_node(together_->graph, overlay_name_));
    paused_ = co_await jobs_that_use(jobs_, *overlay, together_->reactor);
    for (const auto& job : paused_) job->pause();
    Reactor& here = jobs_.reactor();
    for (const Instant end = here.now() + Graph::drain_max; at_work(paused_) && here.now() < end;) co_await here.sleep(look_again);
  }
  Task<> bring_overlay_to_rest() {
    auto drained = co_await overlay_->graph().drain_within(*overlay_, still_max).result();
    if (!drained && drained.error().code() == Errc::timed_out) co_await does_not_rest();
    at_rest_.emplace(co_await unwrap(std::move(drained)));
  }
  Task<> let_overlay_go_on() {
    at_rest_.reset();
    co_return;
  }
  Task<> does_not_rest() const {
    co_await Error(Errc::timed_out, fmt::format("Node '{}' does not come to rest, and guests would wait for it: nothing has changed",
                                                overlay_name_));
  }
  Task<> make_ready(Graph& graph) {
    BlockNode* node = co_await find_node(graph, name_);
    BlockNode* overlay = co_await find_node(graph, overlay_name_);
    co_await unwrap(check_overlay(*overlay));
    co_await prepare_to_follow(*node, *overlay);
  }

  const std::string overlay_name_;
  Place* together_ = nullptr;
  std::optional<Error> apart_;                     // why they are not on one thread
  Jobs paused_;                                    // that write to the overlay
  std::optional<Graph::DrainGuard> at_rest_;       // the overlay
};

// What makes the file, and opens it, is the same ahead and at rest.
class FileSnapshot final : public ExternalSnapshot {
 public:
  FileSnapshot(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotSync arguments)
      : ExternalSnapshot(homes, jobs, arguments.node_name.value_or("")), arguments_(std::move(arguments)), image_(homes) {}

  Task<> ahead(OpenedAhead& opened) override {
    (void)co_await make_ahead().result();
    if (image_.node()) opened.overlays.emplace(*arguments_.snapshot_node_name, OpenedAhead::Node{place_, image_.node()});
  }
  Task<> prepare() override {
    const Place* there = co_await homes_.find(name_);
    if (!there)
      co_await Error(Errc::not_found, fmt::format("Cannot find device='{}' nor node-name='{}'", arguments_.device.value_or(""), name_));
    co_await find_disk();
    co_await flush();
    co_await check_name();
    ImageWanted wanted = co_await homes_.at(*place_, want());
    overlay_ = co_await image_.take(std::move(wanted));
    co_await homes_.at(*place_, give_name(*overlay_, *arguments_.snapshot_node_name));
    co_await put();
  }
  Task<> begin() override {
    co_await ExternalSnapshot::begin();
    co_await image_.hand_over();
  }
  Task<> clean() override { return image_.undo(); }

 private:
  Task<> check_name() {
    const auto& name = arguments_.snapshot_node_name;
    if (!name) co_await Error(Errc::invalid_argument, "New overlay node-name missing");
    const Place* taken = co_await homes_.find(*name);
    if (taken) co_await Error(Errc::exists, "New overlay node-name already in use");
    co_await homes_.at(*place_, check_legal(place_->graph, *name));
  }
  Task<> make_ahead() {
    co_await find_disk();
    co_await check_name();
    ImageWanted wanted = co_await homes_.at(*place_, want());
    co_await image_.make(std::move(wanted));
    if (BlockNode* overlay = image_.node()) co_await homes_.at(*place_, prepare_to_follow(*node_, *overlay));
  }
  // On the node's thread.
  Task<ImageWanted> want() {
    ImageWanted wanted;
    wanted.place = place_;
    wanted.path = arguments_.snapshot_file;
    wanted.format = arguments_.format.value_or("qcow2");
    wanted.is_new = arguments_.mode != schema::NewImageMode::existing;
    wanted.overlay = overlay_like(*node_);
    if (!wanted.is_new) co_return wanted;
    wanted.size = node_->size();
    wanted.below = co_await name_below(node_);
    co_return std::move(wanted);
  }

  const schema::BlockdevSnapshotSync arguments_;
  ImageAhead image_;
};

}  // namespace

std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshot arguments) {
  return std::make_unique<NodeSnapshot>(homes, jobs, std::move(arguments));
}

std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotSync arguments) {
  return std::make_unique<FileSnapshot>(homes, jobs, std::move(arguments));
}

}  // namespace tidemark
