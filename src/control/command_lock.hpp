// CommandLock: commands that change or look at what the daemon has are carried out one after the other,
// whoever sends them.
#pragma once

#include "task/sync.hpp"

namespace tidemark {

// One thread.
class CommandLock {
 public:
  explicit CommandLock(Executor& executor) : mutex_(executor) {}

  // auto turn = co_await lock.enter();        fails after close()
  Task<Mutex::Guard> enter() {
    Mutex::Guard turn = co_await mutex_.lock();
    if (closed_) co_await Error(Errc::cancelled, "the daemon is ending");
    co_return std::move(turn);
  }
  // Waits for the command that runs; those that wait, or come later, fail.
  Task<> close() {
    const Mutex::Guard last = co_await mutex_.lock();
    closed_ = true;
  }

 private:
  Mutex mutex_;
  bool closed_ = false;
};

}  // namespace tidemark
