// ManagedJob: one job's state machine: status, pauses, speed, errors.  Knows nothing of other jobs.
//
// Invariant: the status goes only where follows() lets it, and each change is told.
#pragma once

#include <atomic>
#include <list>
#include <memory>

#include "io/reactor.hpp"
#include "job/job.hpp"
#include "task/sync.hpp"

namespace tidemark {

class JobTransaction;

struct JobOptions {
  std::string id;
  bool auto_finalize = true, auto_dismiss = true;
  std::uint64_t speed = 0;
  std::shared_ptr<JobTransaction> transaction;  // null: one of its own
  Reactor* home = nullptr;                      // where its disk is; null: where the manager is
};

// Made, changed and dismissed by the JobManager; others read.  One thread, the manager's, but for
// home(), job() and signals().
class ManagedJob final : public JobContext {
 public:
  ManagedJob(Reactor& reactor, JobEvents& events, JobOptions options, std::unique_ptr<Job> job);
  ManagedJob(const ManagedJob&) = delete;

  const std::string& id() const noexcept { return options_.id; }
  JobStatus status() const noexcept { return status_; }
  Job& job() const noexcept { return *job_; }
  Reactor& home() const noexcept { return home_; }
  bool at_home() const noexcept { return &home_ == &reactor_; }   // the job is on the manager's thread
  JobInfo info() const;                           // of a job that is, or that has ended
  JobInfo info(JobProgress progress) const;
  // What the job looks at between two pieces of work.
  struct Signals {
    std::atomic<bool> interrupted = false;        // paused or cancelled
    std::atomic<std::uint64_t> speed = 0;
  };
  const Signals& signals() const noexcept { return signals_; }
  bool user_paused() const noexcept { return user_paused_; }
  // A pause that no user asked for; counted, and ended by resume().
  void pause() noexcept;
  void resume() noexcept;
  // For a job elsewhere: it waits for the end of a drain, until its checkpoint(); it is ready.
  void show_paused() { set_paused_status(true); }
  void show_ready(JobProgress progress);

  // JobContext
  Task<> checkpoint() override;
  bool interrupted() const noexcept override;
  Task<> wait() override;
  void wake() noexcept override { interrupted_.wake_all(); }
  Task<> sleep(Duration duration) override;
  std::uint64_t speed() const noexcept override { return options_.speed; }
  Task<> charge(std::uint64_t bytes) override;
  void refund(std::uint64_t bytes) noexcept override;
  Task<ErrorAction> failed(OnError policy, IoSide side, Error error) override;
  void set_ready() override;

 private:
  friend class JobManager;

  void set_status(JobStatus status);
  Result<> check(JobVerb verb) const;
  Result<> user_pause();
  Result<> user_resume();
  Result<> set_speed(std::uint64_t speed);
  void request_cancel(bool force);
  void end(Result<> outcome);  // run() is over
  void fail_if_cancelled();
  bool drained() const noexcept;                  // a job elsewhere sees to that itself
  void publish() noexcept { signals_.interrupted = cancelled_ || pause_count_ != 0; }
  void set_paused_status(bool paused);
  void kick() noexcept;
  Duration delay() const noexcept;

  Reactor& reactor_;
  Reactor& home_;
  Signals signals_;
  JobEvents& events_;
  JobOptions options_;
  std::unique_ptr<Job> job_;
  JobStatus status_ = JobStatus::undefined;
  std::optional<Error> error_;
  std::optional<JobProgress> final_progress_;  // once nodes are let go of
  JobIoStatus io_status_ = JobIoStatus::ok;
  unsigned pause_count_ = 0;
  bool user_paused_ = false;
  bool cancel_asked_ = false;
  bool cancelled_ = false;  // and to end with an error
  bool ended_ = false;
  WaitQueue resumed_, interrupted_, ended_waiters_;
  std::list<CancelSource> sleeps_;  // ended early by kick()
  unsigned idlers_ = 0;             // in wait()
  Instant free_at_{};               // when the speed limit lets more through
};

}  // namespace tidemark
