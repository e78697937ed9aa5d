#include "control/commands/job_commands.hpp"

#include <fmt/format.h>

#include "io/visit.hpp"
#include "job/mirror/mirror.hpp"

namespace tidemark {
namespace {

// Both sides use QEMU's names for these.
template <class Schema, class Ours>
Schema same(Ours value) {
  const auto found = schema::parse_enum<Schema>(to_string(value));
  TM_ASSERT(found);
  return *found;
}

std::int64_t to_int(std::uint64_t value) { return static_cast<std::int64_t>(value); }

// The members that most block job events have.
template <class Event>
Event block_job_event(const JobInfo& job) {
  Event event;
  event.type = same<schema::JobType>(job.type);
  event.device = job.id;
  event.len = to_int(job.progress.total);
  event.offset = to_int(job.progress.current);
  event.speed = to_int(job.speed);
  return event;
}

// At the job's home.
Task<> change(MirrorJob& mirror, CopyMode mode) {
  mirror.set_copy_mode(mode);
  co_return;
}

}  // namespace

void JobEventSender::status_changed(const std::string& id, JobStatus status) {
  schema::JobStatusChangeEvent event;
  event.id = id;
  event.status = same<schema::JobStatus>(status);
  sink_.send(event);
}

void JobEventSender::completed(const JobInfo& job) {
  auto event = block_job_event<schema::BlockJobCompletedEvent>(job);
  event.error = job.error;
  sink_.send(event);
}

void JobEventSender::cancelled(const JobInfo& job) { sink_.send(block_job_event<schema::BlockJobCancelledEvent>(job)); }
void JobEventSender::ready(const JobInfo& job) { sink_.send(block_job_event<schema::BlockJobReadyEvent>(job)); }

void JobEventSender::pending(const JobInfo& job) {
  schema::BlockJobPendingEvent event;
  event.type = same<schema::JobType>(job.type);
  event.id = job.id;
  sink_.send(event);
}

void JobEventSender::error(const std::string& id, IoSide operation, ErrorAction action) {
  schema::BlockJobErrorEvent event;
  event.device = id;
  event.operation = same<schema::IoOperationType>(operation);
  event.action = same<schema::BlockErrorAction>(action);
  sink_.send(event);
}

Task<> JobCommandHandler::job_pause(schema::JobPauseArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_job(arguments.id));
  co_await unwrap(jobs_.pause(*job));
}

Task<> JobCommandHandler::job_resume(schema::JobResumeArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_job(arguments.id));
  co_await unwrap(jobs_.resume(*job));
}

Task<> JobCommandHandler::job_cancel(schema::JobCancelArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_job(arguments.id));
  co_await unwrap(jobs_.cancel(*job, true));
}

Task<> JobCommandHandler::job_complete(schema::JobCompleteArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_job(arguments.id));
  co_await unwrap(jobs_.complete(*job));
}

Task<> JobCommandHandler::job_dismiss(schema::JobDismissArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_job(arguments.id));
  co_await unwrap(jobs_.dismiss(*job));
}

Task<> JobCommandHandler::job_finalize(schema::JobFinalizeArguments arguments) {
  co_await unwrap(jobs_.find_job(arguments.id));
  co_await jobs_.finalize(arguments.id);
}

Task<std::vector<schema::JobInfo>> JobCommandHandler::query_jobs() {
  std::vector<schema::JobInfo> all;
  const auto jobs = jobs_.jobs();                // they come and go while one is asked
  for (const auto& job : jobs) {
    const JobInfo info = co_await jobs_.info(job);
    schema::JobInfo row;
    row.id = info.id;
    row.type = same<schema::JobType>(info.type);
    row.status = same<schema::JobStatus>(info.status);
    row.current_progress = to_int(info.progress.current);
    row.total_progress = to_int(info.progress.total);
    row.error = info.error;
    if (info.staging)
      row.staging = schema::JobStaging{to_int(info.staging->staged), to_int(info.staging->spilled),
                                       to_int(info.staging->budget)};
    all.push_back(std::move(row));
  }
  co_return std::move(all);
}

Task<std::vector<schema::BlockJobInfo>> JobCommandHandler::query_block_jobs() {
  std::vector<schema::BlockJobInfo> all;
  const auto jobs = jobs_.jobs();                // they come and go while one is asked
  for (const auto& job : jobs) {
    const JobInfo info = co_await jobs_.info(job);
    if (!info.is_block_job) continue;
    schema::BlockJobInfo row;
    row.type = same<schema::JobType>(info.type);
    row.device = info.id;
    row.len = to_int(info.progress.total);
    row.offset = to_int(info.progress.current);
    row.busy = info.busy;
    row.paused = info.paused;
    row.speed = to_int(info.speed);
    row.io_status = same<schema::BlockDeviceIoStatus>(info.io_status);
    row.ready = info.ready;
    row.status = same<schema::JobStatus>(info.status);
    row.auto_finalize = info.auto_finalize;
    row.auto_dismiss = info.auto_dismiss;
    row.error = info.error;
    if (info.actively_synced) row.branch = schema::BlockJobInfoMirror{*info.actively_synced};
    all.push_back(std::move(row));
  }
  co_return std::move(all);
}

Task<> JobCommandHandler::block_job_set_speed(schema::BlockJobSetSpeedArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.device));
  co_await unwrap(jobs_.set_speed(*job, arguments.speed));
}

Task<> JobCommandHandler::block_job_cancel(schema::BlockJobCancelArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.device));
  co_await unwrap(jobs_.cancel_block_job(*job, arguments.force));
}

Task<> JobCommandHandler::block_job_pause(schema::BlockJobPauseArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.device));
  co_await unwrap(jobs_.pause(*job));
}

Task<> JobCommandHandler::block_job_resume(schema::BlockJobResumeArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.device));
  co_await unwrap(jobs_.resume(*job));
}

Task<> JobCommandHandler::block_job_complete(schema::BlockJobCompleteArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.device));
  co_await unwrap(jobs_.complete(*job));
}

Task<> JobCommandHandler::block_job_dismiss(schema::BlockJobDismissArguments arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.id));
  co_await unwrap(jobs_.dismiss(*job));
}

Task<> JobCommandHandler::block_job_change(schema::BlockJobChangeOptions arguments) {
  ManagedJob* job = co_await unwrap(jobs_.find_block_job(arguments.id));
  co_await unwrap(check_verb(job->id(), job->status(), JobVerb::change));
  const JobType type = job->job().type();
  if (same<schema::JobType>(type) != arguments.type)
    co_await Error(Errc::invalid_argument, fmt::format("Job '{}' is a {} job, not a {} job", arguments.id, to_string(type),
                                                       schema::to_string(arguments.type)));
  const auto* given = std::get_if<schema::BlockJobChangeOptionsMirror>(&arguments.branch);
  if (!given) co_await Error(Errc::unsupported, fmt::format("Job type {} does not support change", to_string(type)));
  const bool background = given->copy_mode == schema::MirrorCopyMode::background;
  const std::shared_ptr<ManagedJob> held = jobs_.hold(*job);       // it may be about to end, elsewhere
  auto& mirror = static_cast<MirrorJob&>(held->job());
  const CopyMode mode = background ? CopyMode::background : CopyMode::write_blocking;
  co_await visit(jobs_.reactor(), held->home(), change(mirror, mode));
}

Task<> JobCommandHandler::block_job_finalize(schema::BlockJobFinalizeArguments arguments) {
  co_await unwrap(jobs_.find_block_job(arguments.id));
  co_await jobs_.finalize(arguments.id);
}

}  // namespace tidemark
