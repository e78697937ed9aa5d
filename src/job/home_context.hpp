// HomeContext: what a job knows of the outside when its disk lives on another thread than the jobs'
// states.
//
// The job runs at home, next to its disk; its ManagedJob stays with the JobManager.  What is asked often
// is answered from signals that the ManagedJob publishes; for the rest the job goes there and comes back.
#pragma once

#include "job/managed_job.hpp"

namespace tidemark {

// Made and destroyed on the manager's thread; the calls of JobContext come from the job's home.
class HomeContext final : public JobContext {
 public:
  HomeContext(Reactor& manager, ManagedJob& managed) : manager_(manager), managed_(managed) {}

  Task<> checkpoint() override;
  bool interrupted() const noexcept override { return managed_.signals().interrupted || drained(); }
  Task<> wait() override;
  void wake() noexcept override;
  Task<> sleep(Duration duration) override;
  std::uint64_t speed() const noexcept override { return managed_.signals().speed; }
  Task<> charge(std::uint64_t bytes) override;
  void refund(std::uint64_t bytes) noexcept override;
  Task<ErrorAction> failed(OnError policy, IoSide side, Error error) override;
  void set_ready() override;

 private:
  template <class T>
  Task<T> at_manager(Task<T> work);
  bool drained() const noexcept;
  Task<> wait_there();
  Task<> show_paused();

  Reactor& manager_;
  ManagedJob& managed_;
  bool shown_paused_ = false;                   // since the disk is drained
  bool woken_ = false;                          // the manager's: since the last wait()
};

}  // namespace tidemark
