#include "control/backup_actions.hpp"

#include <fmt/format.h>

#include "backup/sums_recorder.hpp"
#include "control/images_made.hpp"
#include "control/job_policy.hpp"
#include "control/sync_modes.hpp"
#include "control/node_opener.hpp"
#include "io/file.hpp"
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

// The file in which the checksums are to be; what must not be overwritten is found now.
Task<> add_witness(Homes& homes, Place& place, const std::optional<std::string>& path, BackupOptions& options) {
  if (!path) co_return;
  co_await SumsRecorder::check(homes.main().reactor, *path);
  SumsRecorder::Options where;
  where.path = *path;
  where.scratch_directory = options.staging.directory.empty() ? "/var/tmp" : options.staging.directory;
  options.witness = std::make_shared<SumsRecorder>(place.reactor, options.source->size(), std::move(where));
}

// On the nodes' thread.

Task<BackupNodes> look_up(Place& place, const std::string& source, const std::string* target) {
  BackupNodes nodes{&place, nullptr, nullptr};
  nodes.source = co_await unwrap(place.graph.lookup(source));
  if (target) nodes.target = co_await unwrap(place.graph.lookup(*target));
  co_return nodes;
}

std::string format_of(const schema::DriveBackup& arguments, const BlockNode& source) {
  return arguments.format.value_or(source.driver().name() == "qcow2" ? "qcow2" : "raw");
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

}  // namespace

Task<BackupNodes> find_nodes(Homes& homes, const schema::BlockdevBackup& arguments) {
  std::vector<std::string> names{arguments.device, arguments.target};
  Place* place = co_await homes.gather(std::move(names));
  co_return co_await homes.at(*place, look_up(*place, arguments.device, &arguments.target));
}

Task<BackupNodes> find_nodes(Homes& homes, const schema::DriveBackup& arguments) {
  Place* place = co_await homes.lookup(arguments.device);
  co_return co_await homes.at(*place, look_up(*place, arguments.device, nullptr));
}

Task<ManagedJob*> make_backup(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                              std::shared_ptr<JobTransaction> group) {
  const BackupNodes nodes = co_await find_nodes(homes, arguments);
  BackupOptions options = co_await unwrap(to_options(arguments, *nodes.source, std::move(group)));
  options.target = nodes.target;
  co_await add_witness(homes, *nodes.place, arguments.checksums, options);
  co_return co_await create_job(homes, jobs, *nodes.place, std::move(options));
}

Task<ManagedJob*> make_backup(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                              std::shared_ptr<JobTransaction> group, DriveImages& images) {
  const BackupNodes nodes = co_await find_nodes(homes, arguments);
  BackupOptions options = co_await unwrap(to_options(arguments, *nodes.source, std::move(group)));
  const bool existing = arguments.mode == schema::NewImageMode::existing;
  // The format of a file that is there already is not guessed: its content may be a guest's.
  if (existing && !arguments.format)
    co_await Error(Errc::invalid_argument, fmt::format("the format of '{}' must be given with mode 'existing'", arguments.target));
  co_await unwrap(jobs.check_id(options.job.id));
  Place& place = *nodes.place;
  co_await add_witness(homes, place, arguments.checksums, options);
  const std::string format = format_of(arguments, *nodes.source);
  bool overwrites = false;
  if (!existing) overwrites = co_await check_overwritable(jobs.reactor(), arguments.target);
  BackingName below;
  if (!existing) below = co_await homes.at(place, name_below(node_below(*nodes.source, arguments.sync)));
  co_await unwrap(check_backing(format, below));
  if (!existing && !overwrites) {
    images.made(arguments.target);
    co_await homes.at(place, create_overlay_file(place.graph, arguments.target, format, nodes.source->size(), below));
  }
  Task<BlockNode*> opening = overwrites ? make_stand_in(place.graph, format, nodes.source->size())
                                        : open_image_file(place.graph, arguments.target, format);
  BlockNode* target = co_await homes.at(place, std::move(opening));
  ManagedJob* job = co_await create_job_to(homes, jobs, place, *target, std::move(options));
  if (overwrites) images.overwrite(nodes, *job, arguments.target, format, std::move(below));
  co_return job;
}

void DriveImages::overwrite(const BackupNodes& nodes, ManagedJob& job, std::string path, std::string format, BackingName below) {
  auto& backup = static_cast<BackupJob&>(job.job());
  late_.push_back({nodes.place, &backup, std::move(path), std::move(format), nodes.source->size(), std::move(below)});
}

// On the nodes' thread.
Task<> DriveImages::give(Graph& graph, const Late& late) {
  co_await create_overlay_file(graph, late.path, late.format, late.size, late.below);
  BlockNode* target = co_await open_image_file(graph, late.path, late.format);
  const Result<> given = co_await late.job->take_target(*target).result();
  if (!given) (void)co_await graph.release(*target).result();
  co_await unwrap(given);
}

Task<> DriveImages::overwrite_all() {
  for (const Late& late : late_) co_await homes_.at(*late.place, give(late.place->graph, late));
}

Task<> DriveImages::undo() {
  Reactor& reactor = homes_.main().reactor;
  for (const std::string& path : made_) (void)co_await fs::unlink(reactor, path).result();
}

}  // namespace tidemark
