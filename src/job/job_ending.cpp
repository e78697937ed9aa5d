// How jobs end: from the end of run() to concluded.
//
//   success   waiting; once all of the transaction are there: pending, each in turn; then, at once
//   or
//             when a user says so: prepare all, decide, then commit and conclude each in turn
//   failure   the others are cancelled; then each in turn, when it has ended: abort and conclude
#include <algorithm>

#include "io/visit.hpp"
#include "job/home_context.hpp"
#include "job/job_manager.hpp"

namespace tidemark {
namespace {

constexpr Duration letting_go_max = std::chrono::seconds(3);  // that a command waits for

// At the job's home.
Task<JobProgress> take_effect(Job& job, bool failed) {
  const JobProgress progress = job.progress();
  if (failed)
    job.abort();
  else
    job.commit();
  co_return progress;
}

}  // namespace

Task<> JobManager::run(ManagedJob& job) {
  if (job.at_home()) co_return co_await job.job().run(job);
  HomeContext context(reactor_, job);
  co_await visit(reactor_, job.home(), job.job().run(context));
}

// Commits or aborts, then lets go of everything.
Task<> JobManager::settle(ManagedJob& job) {
  if (job.final_progress_) co_return;
  const bool failed = job.error_ || job.status_ == JobStatus::aborting;
  job.final_progress_ = co_await visit(reactor_, job.home(), take_effect(job.job(), failed));
  (void)co_await visit(reactor_, job.home(), job.job().clean()).result();
}

Task<> JobManager::carry_out(JobPtr job) {
  Result<> outcome = co_await run(*job).result();
  job->end(std::move(outcome));
  const TransactionPtr transaction = job->options_.transaction;
  if (transaction->aborting) co_return;  // who aborts it concludes this one too
  if (!job->error_) co_return co_await succeeded(job);
  job->set_status(JobStatus::aborting);
  co_await abort_transaction(transaction);
}

Task<> JobManager::succeeded(JobPtr job) {
  const TransactionPtr transaction = job->options_.transaction;
  job->set_status(JobStatus::waiting);
  const auto all = [&](auto is) {
    return std::all_of(transaction->jobs.begin(), transaction->jobs.end(), is);
  };
  if (!all([](const JobPtr& other) { return other->ended_; })) co_return;
  for (const JobPtr& other : transaction->jobs) {
    other->set_status(JobStatus::pending);
    if (!other->options_.auto_finalize && other->job().is_block_job())
      events_.pending(other->info(JobProgress()));
  }
  if (all([](const JobPtr& other) { return other->options_.auto_finalize; }))
    co_await finalize_transaction(transaction);
}

Task<> JobManager::finalize(std::string id) {
  ManagedJob* job = co_await unwrap(find_job(id));
  const TransactionPtr transaction = job->options_.transaction;
  // What is being finalized looks concluded to users: nothing can stop it any more.
  const bool too_late = transaction->finalizing || transaction->aborting;
  const JobStatus seen = too_late ? JobStatus::concluded : job->status();
  co_await unwrap(check_verb(id, seen, JobVerb::finalize));
  group_.spawn(finalize_transaction(transaction));
  co_await transaction->ending.wait();
  CancelSource late;
  const auto expire = [&](CancelToken token) -> Task<> {
    co_await reactor_.sleep(letting_go_max, token);
    late.request();
  };
  const auto in_time = [&](TaskGroup& group) -> Task<> {
    group.spawn(expire(group.token()));
    co_await transaction->over.wait(late.token());
  };
  (void)co_await with_group(reactor_, in_time).result();
}

Task<> JobManager::finalize_transaction(TransactionPtr transaction) {
  transaction->finalizing = true;
  for (const JobPtr& job : transaction->jobs) {
    auto prepared = co_await visit(reactor_, job->home(), job->job().prepare()).result();
    if (!prepared) co_return co_await fail(job, prepared.error());
  }
  const Result<> decided = co_await decide(transaction).result();
  if (!decided) co_return co_await fail(transaction->jobs.front(), decided.error());
  co_await end_parts(transaction, true);
  transaction->ending.set();
  for (const JobPtr& job : transaction->jobs) co_await conclude(job);
  end(transaction);
}

Task<> JobManager::fail(JobPtr job, Error error) {
  job->error_ = std::move(error);
  job->set_status(JobStatus::aborting);
  co_await abort_transaction(job->options_.transaction);
}

Task<> JobManager::decide(TransactionPtr transaction) {
  if (!transaction->decide) co_return;
  JobTransaction::Homes homes;
  for (const JobPtr& job : transaction->jobs) homes.push_back(&job->home());
  for (const auto& part : transaction->parts) homes.push_back(&part->home());
  co_await transaction->decide(transaction->number, std::move(homes));
}

Task<> JobManager::all_started(TransactionPtr transaction) {
  if (!transaction->jobs.empty() || transaction->over.is_set()) co_return;
  const Result<> decided = co_await decide(transaction).result();
  co_await end_parts(transaction, decided.ok());
  end(transaction);
  co_await unwrap(decided);
}

void JobManager::end(const TransactionPtr& transaction) {
  const TransactionPtr held = transaction;
  std::erase(groups_, held);
  held->end();
}

// What was done last is undone first.
Task<> JobManager::end_parts(TransactionPtr transaction, bool well) {
  auto parts = std::move(transaction->parts);
  if (!well) std::reverse(parts.begin(), parts.end());
  for (const auto& part : parts) (void)co_await part->end(well).result();
}

Task<> JobManager::abort_transaction(TransactionPtr transaction) {
  if (transaction->aborting) co_return;
  transaction->aborting = true;
  transaction->ending.set();
  for (const JobPtr& job : transaction->jobs)
    if (!job->error_ && !job->user_paused()) job->request_cancel(true);
  if (!transaction->parts.empty()) co_await undo(transaction);
  for (const JobPtr& job : transaction->jobs) {
    co_await cancelled(job);
    co_await conclude(job);
  }
  end(transaction);
}

// One that a user has paused is seen to go on when its turn to end has come, as in QEMU.
Task<> JobManager::cancelled(JobPtr job) {
  if (!job->error_ && !job->cancelled_) job->request_cancel(true);
  while (!job->ended_) (void)co_await job->ended_waiters_.wait();
}

// All of it is as it was when the first of the jobs is seen to have ended.
Task<> JobManager::undo(TransactionPtr transaction) {
  for (const JobPtr& job : transaction->jobs) {
    co_await cancelled(job);
    job->fail_if_cancelled();
    co_await settle(*job);
  }
  co_await end_parts(transaction, false);
}

Task<> JobManager::conclude(JobPtr job) {
  job->fail_if_cancelled();
  if (job->error_) job->set_status(JobStatus::aborting);
  co_await settle(*job);
  if (job->job().is_block_job()) {
    if (job->cancelled_)
      events_.cancelled(job->info());
    else
      events_.completed(job->info());
  }
  job->set_status(JobStatus::concluded);
  if (job->options_.auto_dismiss) remove(*job);
}

}  // namespace tidemark
