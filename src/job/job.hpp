// Job: long work in the background, as one coroutine that is read from top to bottom; and
// JobContext, all that it may know of the outside.
//
// A job's life, driven by the JobManager (job/job_manager.hpp), all of it on the thread of the reactor
// that is the job's home:
//
//   start()        the moment it begins; cannot fail, does not wait
//   run()          the work.  It ends with an error, cancelled or not, or with success
//   prepare()      after all of its transaction have succeeded: the last step that may fail
//   commit()       success of the whole transaction     \  exactly one of the two,
//   abort()        failure or cancellation              /  also for a job that was never started
//   clean()        lets go of nodes and whatever else it holds
#pragma once

#include "io/backend.hpp"
#include "job/job_types.hpp"
#include "task/task.hpp"

namespace tidemark {

class BlockNode;
class Edge;

class JobContext {
 public:
  // Waits while the job is to be paused; ends with Errc::cancelled when it is cancelled.  Nothing
  // of the job is in flight when it calls this.
  virtual Task<> checkpoint() = 0;
  // checkpoint() would not just return: stop what is in flight and go there.
  virtual bool interrupted() const noexcept = 0;
  // Until it is interrupted or wake() is called; perhaps sooner.
  virtual Task<> wait() = 0;
  virtual void wake() noexcept = 0;
  // At most so long; shorter when interrupted.
  virtual Task<> sleep(Duration duration) = 0;

  // The speed limit: waits until `bytes` more may be moved, and charges for them; returns early
  // when interrupted.  What was not moved in the end is given back.
  virtual std::uint64_t speed() const noexcept = 0;
  virtual Task<> charge(std::uint64_t bytes) = 0;
  virtual void refund(std::uint64_t bytes) noexcept = 0;

  // Tells the world of an I/O error and applies the policy.  On `stop` the job pauses at its next
  // checkpoint and tries again once it is resumed.
  virtual Task<ErrorAction> failed(OnError policy, IoSide side, Error error) = 0;

  // From here on the job can be completed.
  virtual void set_ready() = 0;

 protected:
  ~JobContext() = default;
};

class Job {
 public:
  virtual ~Job() = default;

  // These two on any thread.
  virtual JobType type() const noexcept = 0;
  virtual bool is_block_job() const noexcept { return true; }
  virtual JobProgress progress() const noexcept = 0;
  // Whether others are to be told that it is busy.
  virtual bool uses(const BlockNode&) const noexcept { return false; }
  // At home: old data that waits for a slow target; none for jobs that do not stage.
  virtual std::optional<JobStaging> staging() const noexcept { return std::nullopt; }
  // At home: whether its target is equal and every write goes to both; none for jobs but mirrors.
  virtual std::optional<bool> actively_synced() const noexcept { return std::nullopt; }
  // What it works through: the job is paused while this is drained.
  virtual Edge* edge() const noexcept { return nullptr; }

  virtual void start() noexcept {}
  virtual Task<> run(JobContext& context) = 0;
  virtual Task<> prepare() { co_return; }
  virtual void commit() noexcept {}
  virtual void abort() noexcept {}
  virtual Task<> clean() { co_return; }

  // The following on the manager's thread.
  // A job that is ready: end well soon.  Others are never asked.
  virtual void complete() noexcept {}
  // False: the job ends well on its own, soon.  True: it is to end with Errc::cancelled.
  virtual bool cancel(bool force) noexcept {
    (void)force;
    return true;
  }
};

}  // namespace tidemark
