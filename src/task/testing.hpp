// A ready queue that tests turn by hand, and a way to start tasks on it and look at their outcome.
#pragma once

#include <gtest/gtest.h>

#include <deque>

#include "task/executor.hpp"
#include "task/task.hpp"

namespace tidemark {

class ManualExecutor final : public Executor {
 public:
  void post(std::coroutine_handle<> waiter) override { ready_.push_back(waiter); }
  // Runs one that is ready; false when there is none.
  bool step() {
    if (ready_.empty()) return false;
    auto waiter = ready_.front();
    ready_.pop_front();
    waiter.resume();
    return true;
  }
  void run() { while (step()) {} }
  std::size_t ready() const { return ready_.size(); }

  // co_await executor.yield(): goes to the end of the queue.
  auto yield() {
    struct Yield {
      ManualExecutor& executor;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> waiter) { executor.post(waiter); }
      void await_resume() const noexcept {}
    };
    return Yield{*this};
  }

 private:
  std::deque<std::coroutine_handle<>> ready_;
};

// A task that has been started; owns its frame.
template <class T = void>
class Started {
 public:
  explicit Started(Task<T> task) : handle_(task.release()) { handle_.resume(); }
  Started(const Started&) = delete;
  ~Started() { handle_.destroy(); }
  bool done() const { return handle_.promise().finished; }
  const Result<T>& outcome() const { return *handle_.promise().outcome; }
  bool failed_with(Errc code) const {
    return done() && !outcome().ok() && outcome().error().code() == code;
  }
  bool succeeded() const { return done() && outcome().ok(); }

 private:
  std::coroutine_handle<detail::Promise<T>> handle_;
};

}  // namespace tidemark
