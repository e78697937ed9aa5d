#include "control/backup_actions.hpp"

#include <fmt/format.h>

#include "control/images_made.hpp"
#include "control/node_opener.hpp"

namespace tidemark {
namespace {

SyncMode to_sync(schema::MirrorSyncMode mode) {
  switch (mode) {
    case schema::MirrorSyncMode::top: return SyncMode::top;
    case schema::MirrorSyncMode::full: return SyncMode::full;
    case schema::MirrorSyncMode::none: return SyncMode::none;
    case schema::MirrorSyncMode::incremental: return SyncMode::incremental;
    case schema::MirrorSyncMode::bitmap: return SyncMode::bitmap;
  }
  return SyncMode::full;
}

BitmapMode to_bitmap_mode(schema::BitmapSyncMode mode) {
  switch (mode) {
    case schema::BitmapSyncMode::on_success: return BitmapMode::on_success;
    case schema::BitmapSyncMode::never: return BitmapMode::never;
    case schema::BitmapSyncMode::always: return BitmapMode::always;
  }
  return BitmapMode::on_success;
}

OnError to_policy(schema::BlockdevOnError policy) {
  switch (policy) {
    case schema::BlockdevOnError::report: return OnError::report;
    case schema::BlockdevOnError::ignore: return OnError::ignore;
    case schema::BlockdevOnError::enospc: return OnError::enospc;
    case schema::BlockdevOnError::stop: return OnError::stop;
    case schema::BlockdevOnError::auto_: return OnError::automatic;
  }
  return OnError::report;
}

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
  if (given.bitmap_mode) options.bitmap_mode = to_bitmap_mode(*given.bitmap_mode);
  options.compress = given.compress;
  options.on_source_error = to_policy(given.on_source_error);
  options.on_target_error = to_policy(given.on_target_error);
  options.on_cbw_error = given.on_cbw_error == schema::OnCbwError::break_guest_write ? OnCbwError::break_guest_write
                                                                                     : OnCbwError::break_snapshot;
  options.filter_node_name = given.filter_node_name.value_or("");
  if (given.x_perf) {
    options.perf.max_workers = given.x_perf->max_workers;
    options.perf.max_chunk = given.x_perf->max_chunk;
  }
  return options;
}

// The node a drive-backup copies to.
schema::BlockdevRef describe_target(const std::string& path, const std::string& format) {
  schema::BlockdevOptionsFile where;
  where.filename = path;
  schema::BlockdevOptions file;
  file.driver = schema::BlockdevDriver::file;
  file.branch = std::move(where);
  schema::BlockdevRef storage;
  storage.value = schema::Box<schema::BlockdevOptions>(std::move(file));
  schema::BlockdevOptions image;
  if (format == "qcow2") {
    schema::BlockdevOptionsQcow2 qcow2;
    qcow2.file = std::move(storage);
    qcow2.backing.emplace().value = nullptr;
    image.driver = schema::BlockdevDriver::qcow2;
    image.branch = std::move(qcow2);
  } else {
    schema::BlockdevOptionsRaw raw;
    raw.file = std::move(storage);
    image.driver = schema::BlockdevDriver::raw;
    image.branch = std::move(raw);
  }
  schema::BlockdevRef reference;
  reference.value = schema::Box<schema::BlockdevOptions>(std::move(image));
  return reference;
}

}  // namespace

Task<ManagedJob*> make_backup(Graph& graph, JobManager& jobs, schema::BlockdevBackup arguments,
                              std::shared_ptr<JobTransaction> group) {
  BlockNode* source = co_await unwrap(graph.lookup(arguments.device));
  BlockNode* target = co_await unwrap(graph.lookup(arguments.target));
  BackupOptions options = co_await unwrap(to_options(arguments, *source, std::move(group)));
  options.target = target;
  co_return co_await BackupJob::create(jobs, std::move(options));
}

Task<ManagedJob*> make_backup(Graph& graph, JobManager& jobs, schema::DriveBackup arguments,
                              std::shared_ptr<JobTransaction> group) {
  BlockNode* source = co_await unwrap(graph.lookup(arguments.device));
  BackupOptions options = co_await unwrap(to_options(arguments, *source, std::move(group)));
  const bool existing = arguments.mode == schema::NewImageMode::existing;
  // The format of a file that is there already is not guessed: its content may be a guest's.
  if (existing && !arguments.format)
    co_await Error(Errc::invalid_argument, fmt::format("the format of '{}' must be given, since it exists already", arguments.target));
  const std::string format = arguments.format.value_or(source->driver().name() == "qcow2" ? "qcow2" : "raw");
  co_await unwrap(jobs.check_id(options.job.id));
  if (!existing) co_await create_image_file(graph, arguments.target, format, source->size());
  NodeOpener opener(graph);
  schema::BlockdevRef reference = describe_target(arguments.target, format);
  options.target = co_await opener.resolve(std::move(reference));
  BlockNode* target = options.target;
  auto job = co_await BackupJob::create(jobs, std::move(options)).result();
  if (!job) (void)co_await graph.release(*target).result();
  co_return co_await unwrap(std::move(job));
}

}  // namespace tidemark
