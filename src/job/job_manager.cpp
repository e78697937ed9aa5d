#include "job/job_manager.hpp"

#include <algorithm>

#include "base/identifier.hpp"
#include "block/graph.hpp"
#include "io/visit.hpp"

namespace tidemark {
namespace {

// Steps at a job's home.

Task<> start_job(Job& job) {
  job.start();
  co_return;
}

struct JobSight {
  JobProgress progress;
  std::optional<JobStaging> staging;
  std::optional<bool> actively_synced;
};

Task<JobSight> look_at(const Job& job) {
  JobSight sight{job.progress(), job.staging(), job.actively_synced()};
  co_return sight;
}

template <class Jobs>
Task<> check_none_uses(const Jobs& jobs, const BlockNode& node) {
  for (const auto& job : jobs)
    if (job->job().uses(node))
      co_await Error(Errc::busy, "Node '" + node.name() + "' is busy: block device is in use by block job: " +
                                     std::string(to_string(job->job().type())));
}

}  // namespace

Result<> JobManager::check_id(const std::string& id) const {
  if (!is_identifier(id)) return Error(Errc::invalid_argument, "Invalid job ID '" + id + "'");
  if (find_job(id).ok()) return Error(Errc::exists, "Job ID '" + id + "' already in use");
  return {};
}

std::shared_ptr<JobTransaction> JobManager::new_group(JobTransaction::Decide decide) {
  TransactionPtr group = groups_.emplace_back(new_transaction());
  while (group->number == 0) group->number = reactor_.backend().random();
  group->decide = std::move(decide);
  return group;
}

Result<ManagedJob*> JobManager::create(JobOptions options, std::unique_ptr<Job>&& job) {
  if (auto ok = check_id(options.id); !ok) return ok.error();
  if (!options.transaction) options.transaction = new_transaction();
  TransactionPtr transaction = options.transaction;
  auto managed =
      std::make_shared<ManagedJob>(reactor_, events_, std::move(options), std::move(job));
  jobs_.insert(jobs_.begin(), managed);
  transaction->jobs.insert(transaction->jobs.begin(), managed);
  managed->set_status(JobStatus::created);
  return managed.get();
}

void JobManager::start(ManagedJob& job) {
  TM_ASSERT(job.at_home());
  job.job_->start();
  begin(job);
}

Task<> JobManager::start_at_home(ManagedJob& job) {
  co_await visit(reactor_, job.home(), start_job(*job.job_));
  begin(job);
}

void JobManager::begin(ManagedJob& job) {
  job.set_status(JobStatus::running);
  group_.spawn(carry_out(hold(job)));
}

Task<> JobManager::abandon(ManagedJob& job) {
  const JobPtr held = hold(job);
  std::erase(held->options_.transaction->jobs, held);
  held->options_.auto_dismiss = true;
  held->set_status(JobStatus::aborting);
  co_await settle(*held);
  held->set_status(JobStatus::concluded);
  remove(*held);
}

Result<ManagedJob*> JobManager::find_job(std::string_view id) const {
  for (const JobPtr& job : jobs_)
    if (job->id() == id) return job.get();
  return Error(Errc::not_found, "Job not found");
}

Result<ManagedJob*> JobManager::find_block_job(std::string_view id) const {
  auto job = find_job(id);
  if (job && (*job)->job().is_block_job()) return job;
  return Error(Errc::device_not_active, "Block job '" + std::string(id) + "' not found");
}

Task<> JobManager::check_unused(const BlockNode& node, Reactor& home) const {
  std::vector<JobPtr> there;
  for (const JobPtr& job : jobs_)
    if (&job->home() == &home) there.push_back(job);
  co_await visit(reactor_, home, check_none_uses(there, node));
}

Task<> JobManager::close_unused(Graph& graph) {
  std::vector<JobPtr> there;
  for (const JobPtr& job : jobs_)
    if (&job->home() == &graph.reactor()) there.push_back(job);
  const Graph::InUse in_use = [&there](const BlockNode& node) {
    return std::any_of(there.begin(), there.end(), [&node](const JobPtr& job) { return job->job().uses(node); });
  };
  co_await visit(reactor_, graph.reactor(), graph.close_unused(in_use));
}

Task<JobInfo> JobManager::info(std::shared_ptr<const ManagedJob> job) const {
  JobSight sight;
  if (job->job_->type() == JobType::mirror) sight.actively_synced = false;
  if (!job->final_progress_) sight = co_await visit(reactor_, job->home(), look_at(*job->job_));
  JobInfo info = job->info(job->final_progress_.value_or(sight.progress));
  info.staging = sight.staging;
  info.actively_synced = sight.actively_synced;
  co_return std::move(info);
}

Result<> JobManager::set_speed(ManagedJob& job, std::int64_t bytes_per_s) {
  if (auto ok = job.check(JobVerb::set_speed); !ok) return ok;
  if (bytes_per_s < 0)
    return Error(Errc::invalid_argument, "Parameter 'speed' expects a non-negative value");
  return job.set_speed(static_cast<std::uint64_t>(bytes_per_s));
}

Result<> JobManager::cancel(ManagedJob& job, bool force) {
  if (auto ok = job.check(JobVerb::cancel); !ok) return ok;
  const TransactionPtr transaction = job.options_.transaction;
  if (transaction->finalizing || transaction->aborting) return {};  // its end is decided
  job.request_cancel(force);
  if (job.ended_) group_.spawn(abort_transaction(transaction));
  return {};
}

Result<> JobManager::cancel_block_job(ManagedJob& job, bool force) {
  if (job.user_paused() && !force)
    return Error(Errc::busy, "The block job for device '" + job.id() + "' is currently paused");
  return cancel(job, force);
}

Result<> JobManager::complete(ManagedJob& job) {
  if (auto ok = job.check(JobVerb::complete); !ok) return ok;
  if (job.cancel_asked_)
    return Error(Errc::invalid_argument,
                 "The active block job '" + job.id() + "' cannot be completed");
  job.job_->complete();
  return {};
}

Result<> JobManager::dismiss(ManagedJob& job) {
  if (auto ok = job.check(JobVerb::dismiss); !ok) return ok;
  remove(job);
  return {};
}

Task<> JobManager::cancel_all() {
  while (!jobs_.empty()) {
    const std::vector<JobPtr> all = jobs_;               // one that hangs does not keep the others
    for (const JobPtr& job : all) {
      if (std::find(jobs_.begin(), jobs_.end(), job) == jobs_.end()) continue;
      job->options_.auto_dismiss = true;
      if (job->status() == JobStatus::concluded) remove(*job);
      else (void)cancel(*job, true);
    }
    if (!jobs_.empty()) co_await gone_.wait();
  }
  while (!groups_.empty()) {
    const TransactionPtr group = groups_.front();
    co_await group->over.wait();
  }
}

JobManager::JobPtr JobManager::hold(const ManagedJob& job) const {
  const auto place = std::find_if(jobs_.begin(), jobs_.end(),
                                  [&](const JobPtr& known) { return known.get() == &job; });
  TM_ASSERT(place != jobs_.end());
  return *place;
}

void JobManager::remove(ManagedJob& job) {
  const JobPtr held = hold(job);
  std::erase(jobs_, held);
  held->set_status(JobStatus::null);
  gone_.notify_all();
}

}  // namespace tidemark
