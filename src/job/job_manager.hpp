// JobManager: all jobs of a daemon, by id; what users do to them; and how they end, alone or
// together.
//
// Jobs of one transaction end together: each waits in `waiting` for the others, all are finalized
// at once, and the first that fails or is cancelled aborts all.  Order, everywhere: the newest
// first.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "job/managed_job.hpp"
#include "task/group.hpp"

namespace tidemark {

class Graph;

// Jobs that succeed or fail together (completion-mode grouped).
class JobTransaction {
 public:
  // Makes it durable that all of the group ends well; on error none of it does.  `homes`: where its jobs and parts are, and
  // therefore stay.
  using Homes = std::vector<Reactor*>;
  using Decide = std::function<Task<>(std::uint64_t group, Homes homes)>;
  explicit JobTransaction(Executor& executor) : ending(executor), over(executor) {}

  // The number of a group; 0: not one that was asked for.
  std::uint64_t id() const noexcept { return number; }

  // What else takes effect with the jobs or is undone with them.  It is told once: before jobs that have done their work take
  // effect, and after jobs of which one has not have been undone.
  class Part {
   public:
    virtual ~Part() = default;
    virtual Task<> end(bool well) = 0;
    virtual Reactor& home() const noexcept = 0;
  };
  void add(std::unique_ptr<Part> part) { parts.push_back(std::move(part)); }

 private:
  friend class JobManager;
  void end() {
    jobs.clear();  // which hold this
    over.set();
  }
  std::uint64_t number = 0;
  Decide decide;
  std::vector<std::shared_ptr<ManagedJob>> jobs;  // newest first
  std::vector<std::unique_ptr<Part>> parts;       // in the order they were made
  bool finalizing = false, aborting = false;
  Event ending;  // how all its jobs end is decided; they take effect, and let go of what they hold
  Event over;    // all its jobs are concluded
};

// One thread; jobs do their work at their homes, which may be other threads, and outlive them.
// cancel_all() is awaited before it goes (asserted).
class JobManager {
 public:
  // Jobs run in `group`, which outlives them.
  JobManager(Reactor& reactor, TaskGroup& group, JobEvents& events)
      : reactor_(reactor), group_(group), events_(events), gone_(reactor) {}
  JobManager(const JobManager&) = delete;
  ~JobManager() { TM_ASSERT(jobs_.empty()); }

  Reactor& reactor() noexcept { return reactor_; }
  std::shared_ptr<JobTransaction> new_transaction() {
    return std::make_shared<JobTransaction>(reactor_);
  }
  // One with parts.  all_started() is awaited once its jobs have been, or will not be; without any it is over then, undone on error.
  std::shared_ptr<JobTransaction> new_group(JobTransaction::Decide decide);
  Task<> all_started(std::shared_ptr<JobTransaction> transaction);

  // A job is created first, then started, or, when what surrounds it fails, abandoned.
  Result<> check_id(const std::string& id) const;  // "Job ID 'x' already in use"
  // Takes the job on success only.
  Result<ManagedJob*> create(JobOptions options, std::unique_ptr<Job>&& job);
  void start(ManagedJob& job);                     // at home here
  Task<> start_at_home(ManagedJob& job);           // anywhere
  Task<> abandon(ManagedJob& job);

  const std::vector<std::shared_ptr<ManagedJob>>& jobs() const noexcept { return jobs_; }
  Result<ManagedJob*> find_job(std::string_view id) const;        // "Job not found"
  Result<ManagedJob*> find_block_job(std::string_view id) const;  // DeviceNotActive
  // "Node 't' is busy: block device is in use by block job: backup"
  Task<> check_unused(const BlockNode& node, Reactor& home) const;
  // For when others hang: closes all nodes of the monitor's that no job uses, as Graph::close_unused() does.
  Task<> close_unused(Graph& graph);
  // Until it is let go of it stays, also when it has ended and is dismissed.
  std::shared_ptr<ManagedJob> hold(const ManagedJob& job) const;
  Task<JobInfo> info(std::shared_ptr<const ManagedJob> job) const;

  // What job-VERB and block-job-VERB do.
  Result<> pause(ManagedJob& job) { return job.user_pause(); }
  Result<> resume(ManagedJob& job) { return job.user_resume(); }
  Result<> set_speed(ManagedJob& job, std::int64_t bytes_per_s);
  Result<> cancel(ManagedJob& job, bool force);
  // block-job-cancel: a job that is paused is only cancelled with `force`.
  Result<> cancel_block_job(ManagedJob& job, bool force);
  Result<> complete(ManagedJob& job);
  // Ends when its transaction is concluded; that goes on by itself when guests' requests keep its jobs from letting go of disks.
  Task<> finalize(std::string id);
  Result<> dismiss(ManagedJob& job);

  // Cancels and dismisses all; ends when there is none.
  Task<> cancel_all();

 private:
  using JobPtr = std::shared_ptr<ManagedJob>;
  using TransactionPtr = std::shared_ptr<JobTransaction>;

  Task<> run(ManagedJob& job);
  void begin(ManagedJob& job);
  Task<> settle(ManagedJob& job);
  Task<> carry_out(JobPtr job);
  Task<> succeeded(JobPtr job);
  Task<> finalize_transaction(TransactionPtr transaction);
  static Task<> decide(TransactionPtr transaction);
  Task<> fail(JobPtr job, Error error);
  static Task<> end_parts(TransactionPtr transaction, bool well);
  Task<> undo(TransactionPtr transaction);
  Task<> cancelled(JobPtr job);                   // and ended
  void end(const TransactionPtr& transaction);
  Task<> abort_transaction(TransactionPtr transaction);
  Task<> conclude(JobPtr job);
  void remove(ManagedJob& job);

  Reactor& reactor_;
  TaskGroup& group_;
  JobEvents& events_;
  std::vector<JobPtr> jobs_;  // newest first
  std::vector<TransactionPtr> groups_;  // that are not over
  Event gone_;                // a job was dismissed
};

}  // namespace tidemark
