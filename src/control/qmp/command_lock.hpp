// CommandLock: commands that change or look at what the daemon has are carried out one after the other,
// whoever sends them.
#pragma once

#include <functional>

#include "base/json.hpp"
#include "task/sync.hpp"

namespace tidemark {

// One thread.
class CommandLock {
 public:
  explicit CommandLock(Executor& executor) : mutex_(executor) {}

  // auto turn = co_await lock.enter();        fails after close(); end() is awaited before it goes
  Task<Mutex::Guard> enter() {
    Mutex::Guard turn = co_await mutex_.lock();
    if (closed_) co_await Error(Errc::cancelled, "the daemon is ending");
    co_return std::move(turn);
  }
  // A command that has its turn.
  Task<Json> run(Task<Json> command) {
    const Mutex::Guard turn = co_await enter();
    Result<Json> answer = co_await std::move(command).result();
    co_await end();
    co_return co_await unwrap(std::move(answer));
  }

  // What is awaited before a turn ends.
  void at_end(std::function<Task<>()> work) { at_end_ = std::move(work); }
  Task<> end() {
    if (at_end_) co_await at_end_();
  }
  // Waits for the command that runs; those that wait, or come later, fail.
  Task<> close() {
    const Mutex::Guard last = co_await mutex_.lock();
    closed_ = true;
  }

 private:
  Mutex mutex_;
  std::function<Task<>()> at_end_;
  bool closed_ = false;
};

}  // namespace tidemark
