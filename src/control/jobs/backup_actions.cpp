#include "control/jobs/backup_actions.hpp"

#include <fmt/format.h>

#include "backup/sums_recorder.hpp"
#include "control/jobs/job_policy.hpp"
#include "control/jobs/sync_modes.hpp"
#include "control/jobs/transaction_jobs.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/images_made.hpp"
#include "control/snapshots/image_ahead.hpp"
#include "storage/file.hpp"

namespace tidemark {
namespace {

Result<BackupOptions> to_options(const schema::BackupCommon& given, BlockNode& source, std::shared_ptr<JobTransaction> group) {
  if (!given.job_id) return Error(Errc::invalid_argument, "An explicit job ID is required for this node");
  if (given.speed < 0) return Error(Errc::invalid_argument, "Parameter 'speed' expects a non-negative value");
  BackupOptions options;
  options.job.id = *given.job_id;
  options.job.auto_finalize = given.auto_finalize;
  options.job.auto_dismiss = given.auto_dismiss;
  options.job.speed = static_cast<std::uint64_t>(given.speed);
  options.job.transaction = std::move(group);
  options.source = &source;
  options.sync = to_sync(given.sync);
  options.bitmap = given.bitmap;
  options.bitmap_node = given.bitmap_node;
  options.since = given.since;
  if (given.bitmap_mode) options.bitmap_mode = to_bitmap_mode(*given.bitmap_mode);
  options.compress = given.compress;
  options.unmap = given.unmap;
  options.target_is_zero = given.target_is_zero;
  options.on_source_error = to_policy(given.on_source_error);
  options.on_target_error = to_policy(given.on_target_error);
  options.on_cbw_error = given.on_cbw_error == schema::OnCbwError::break_guest_write ? OnCbwError::break_guest_write
                                                                                     : OnCbwError::break_snapshot;
  options.filter_node_name = given.filter_node_name.value_or("");
  options.staging.memory = given.staging_memory;
  options.staging.budget = given.staging_budget;
  options.staging.spill = given.spill;
  options.staging.directory = given.spill_directory.value_or("");
  options.staging.on_full = given.on_staging_full == schema::OnStagingFull::throttle ? OnStagingFull::throttle
                                                                                    : OnStagingFull::fail;
  if (given.x_perf) {
    options.perf.max_workers = given.x_perf->max_workers;
    options.perf.max_chunk = given.x_perf->max_chunk;
  }
  return options;
}

// The nodes of a backup, which live on one thread.
struct BackupNodes {
  Place* place = nullptr;
  BlockNode* source = nullptr;
  BlockNode* target = nullptr;                       // null: still to be made
};

// On the nodes' thread.

Task<BackupNodes> look_up(Place& place, const std::string& source, const std::string* target) {
  BackupNodes nodes{&place, nullptr, nullptr};
  nodes.source = co_await unwrap(place.graph.lookup(source));
  if (target) nodes.target = co_await unwrap(place.graph.lookup(*target));
  if (target) co_await begin_to_write(*nodes.target);
  co_return nodes;
}

Task<ImageWanted> wanted_by(Place& place, BlockNode& source, const schema::DriveBackup& arguments) {
  ImageWanted wanted;
  wanted.place = &place;
  wanted.path = arguments.target;
  wanted.format = arguments.format.value_or(source.driver().name() == "qcow2" ? "qcow2" : "raw");
  wanted.is_new = arguments.mode != schema::NewImageMode::existing;
  if (!wanted.is_new) co_return wanted;
  wanted.size = source.size();
  wanted.below = co_await name_below(node_below(source, arguments.sync));
  co_return std::move(wanted);
}

Task<> open_target(Graph& graph, BackupJob& job, const ImageWanted& wanted) {
  BlockNode* target = co_await open_image_file(graph, wanted.path, wanted.format);
  const Result<> given = co_await job.take_target(*target).result();
  if (!given) (void)co_await graph.release(*target).result();
  co_await unwrap(given);
}

// The image instead of the stand-in.
Task<> give_target(Graph& graph, BackupJob& job, const ImageWanted& wanted) {
  CreatedFile created = co_await create_overlay_file(graph, wanted.path, wanted.format, wanted.size, wanted.below);
  const Result<> opened = co_await open_target(graph, job, wanted).result();
  if (opened) co_return;
  leave_if_taken(created, opened.error());
  (void)co_await undo_create_file(graph.reactor(), std::move(created)).result();
  co_await opened.error();
}

Task<ManagedJob*> create_job(Homes& homes, JobManager& jobs, const Place& place, BackupOptions options) {
  std::vector<std::string> names;
  if (!options.filter_node_name.empty()) names.push_back(options.filter_node_name);
  co_await homes.check_free_elsewhere(std::move(names), place);
  co_return co_await BackupJob::create(jobs, std::move(options));
}

// What was attached and failed may have let go of it already.
Task<> release(Graph& graph, std::string name) {
  if (BlockNode* node = graph.find(name)) co_await graph.release(*node);
}

// `target` belongs to the job, or is gone.
Task<ManagedJob*> create_job_to(Homes& homes, JobManager& jobs, Place& place, BlockNode& target, BackupOptions options) {
  options.target = &target;
  const std::string name = target.name();
  auto job = co_await create_job(homes, jobs, place, std::move(options)).result();
  if (!job) (void)co_await homes.at(place, release(place.graph, name)).result();
  co_return co_await unwrap(std::move(job));
}

// On the main thread.

Task<BackupNodes> find_nodes(Homes& homes, const schema::BlockdevBackup& arguments) {
  std::vector<std::string> names{arguments.device, arguments.target};
  Place* place = co_await homes.gather(std::move(names));
  co_return co_await homes.at(*place, look_up(*place, arguments.device, &arguments.target));
}

Task<BackupNodes> find_nodes(Homes& homes, const schema::DriveBackup& arguments) {
  Place* place = co_await homes.lookup(arguments.device);
  co_return co_await homes.at(*place, look_up(*place, arguments.device, nullptr));
}

template <class Arguments>
class BackupAction : public JobAction {
 public:
  BackupAction(Homes& homes, JobManager& jobs, Arguments arguments, std::shared_ptr<JobTransaction> group)
      : JobAction(homes, jobs), arguments_(std::move(arguments)), group_(std::move(group)) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }

 protected:
  // The file in which the checksums are to be: what must not be overwritten is found before the disk is at rest.
  Task<> check_checksums() {
    if (!arguments_.checksums) co_return;
    if (!checksums_) checksums_ = co_await SumsRecorder::check(homes_.main().reactor, *arguments_.checksums).result();
    co_await unwrap(*checksums_);
  }
  void add_witness(Place& place, BackupOptions& options) const {
    if (!arguments_.checksums) return;
    SumsRecorder::Options where;
    where.path = *arguments_.checksums;
    where.scratch_directory = options.staging.directory.empty() ? "/var/tmp" : options.staging.directory;
    options.witness = std::make_shared<SumsRecorder>(place.reactor, options.source->size(), std::move(where));
  }

  const Arguments arguments_;
  const std::shared_ptr<JobTransaction> group_;

 private:
  std::optional<Result<>> checksums_;                // once they are checked
};

class BlockdevBackupAction final : public BackupAction<schema::BlockdevBackup> {
 public:
  using BackupAction::BackupAction;

  Task<> gather() override {
    std::vector<std::string> names{arguments_.device, arguments_.target};
    (void)co_await homes_.gather(std::move(names)).result();
  }
  Task<> ahead(OpenedAhead&) override { (void)co_await check_checksums().result(); }
  Task<> prepare() override {
    const BackupNodes nodes = co_await find_nodes(homes_, arguments_);
    BackupOptions options = co_await unwrap(to_options(arguments_, *nodes.source, group_));
    options.target = nodes.target;
    co_await check_checksums();
    add_witness(*nodes.place, options);
    job_ = co_await create_job(homes_, jobs_, *nodes.place, std::move(options));
  }
};

class DriveBackupAction final : public BackupAction<schema::DriveBackup> {
 public:
  DriveBackupAction(Homes& homes, JobManager& jobs, schema::DriveBackup arguments, std::shared_ptr<JobTransaction> group)
      : BackupAction(homes, jobs, std::move(arguments), std::move(group)), image_(homes) {}

  Task<> ahead(OpenedAhead& opened) override {
    const Result<> found = co_await look(find_ahead(opened)).result();
    if (found && !overwrites()) co_await image_.make(wanted_);
  }
  // A file that is there keeps its content for now: its job has a stand-in for a target.
  Task<> prepare() override {
    co_await look(find_nodes(homes_, arguments_));
    BlockNode* target = co_await make_target();
    BackupOptions options = co_await unwrap(to_options(arguments_, *nodes_.source, group_));
    add_witness(*nodes_.place, options);
    job_ = co_await create_job_to(homes_, jobs_, *nodes_.place, *target, std::move(options));
  }
  Task<> overwrite() override {
    if (!overwrites()) co_return;
    Place& place = *nodes_.place;
    co_await homes_.at(place, give_target(place.graph, static_cast<BackupJob&>(job_->job()), wanted_));
  }
  Task<> begin() override {
    co_await image_.hand_over();
    co_await JobAction::begin();
  }
  Task<> clean() override { return image_.undo(); }

 private:
  bool overwrites() const { return replaced_ && replaced_->ok() && **replaced_ == Replaced::content; }

  // What is below an overlay is not there yet, but only a copy of all of it does not name that.
  Task<BackupNodes> find_ahead(const OpenedAhead& opened) {
    const auto overlay = opened.overlays.find(arguments_.device);
    if (overlay == opened.overlays.end() || arguments_.sync != schema::MirrorSyncMode::full)
      co_return co_await find_nodes(homes_, arguments_);
    BackupNodes nodes;
    nodes.place = overlay->second.place;
    nodes.source = overlay->second.node;
    co_return nodes;
  }

  // All that is told before the target is made.
  Task<> look(Task<BackupNodes> finding) {
    nodes_ = co_await std::move(finding);
    const BackupOptions options = co_await unwrap(to_options(arguments_, *nodes_.source, group_));
    const bool existing = arguments_.mode == schema::NewImageMode::existing;
    // The format of a file that is there already is not guessed: its content may be a guest's.
    if (existing && !arguments_.format)
      co_await Error(Errc::invalid_argument, fmt::format("the format of '{}' must be given with mode 'existing'", arguments_.target));
    co_await unwrap(jobs_.check_id(options.job.id));
    co_await check_checksums();
    if (!existing && !replaced_) replaced_ = co_await check_overwritable(jobs_.reactor(), arguments_.target).result();
    if (replaced_) co_await unwrap(*replaced_);
    wanted_ = co_await homes_.at(*nodes_.place, wanted_by(*nodes_.place, *nodes_.source, arguments_));
    co_await unwrap(check_backing(wanted_.format, wanted_.below));
  }

  Task<BlockNode*> make_target() {
    if (!overwrites()) return image_.take(wanted_);
    return homes_.at(*nodes_.place, make_stand_in(nodes_.place->graph, wanted_.format, wanted_.size));
  }

  BackupNodes nodes_;
  ImageWanted wanted_;
  std::optional<Result<Replaced>> replaced_;         // once that is known
  ImageAhead image_;
};

}  // namespace

std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                                                      std::shared_ptr<JobTransaction> group) {
  return std::make_unique<BlockdevBackupAction>(homes, jobs, std::move(arguments), std::move(group));
}

std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                                                      std::shared_ptr<JobTransaction> group) {
  return std::make_unique<DriveBackupAction>(homes, jobs, std::move(arguments), std::move(group));
}

}  // namespace tidemark
