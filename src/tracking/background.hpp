// Background: a task that runs beside its owner until the owner awaits its end.
#pragma once

#include "task/sync.hpp"

namespace tidemark::tracking {

// The owner asks the task to end, then awaits join(); both before this goes (asserted).
class Background {
 public:
  explicit Background(Executor& executor) : ended_(executor) {}
  Background(const Background&) = delete;
  ~Background() { TM_ASSERT(!task_); }

  // Up to its first wait.  Its error, if it has one, is join()'s.
  void start(Task<> task) {
    TM_ASSERT(!task_);
    task_ = run(std::move(task)).release();
    task_.resume();
  }
  Task<> join() {
    if (!task_) co_return;
    co_await ended_.wait();
    std::exchange(task_, {}).destroy();
    const Result<> outcome = outcome_;
    co_await unwrap(outcome);
  }

 private:
  Task<> run(Task<> task) {
    outcome_ = co_await std::move(task).result();
    ended_.set();
  }
  Event ended_;
  Result<> outcome_;
  std::coroutine_handle<detail::Promise<void>> task_;
};

}  // namespace tidemark::tracking
