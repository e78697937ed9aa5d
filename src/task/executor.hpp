// Executor: where coroutines that become runnable are queued.  Mutex, Semaphore and the rest wake
// their waiters through it, never inline, so that unlocking neither recurses nor reorders.
#pragma once

#include <coroutine>

namespace tidemark {

class Executor {
 public:
  // Runs `waiter` later in this turn, on this executor's thread.  Call on that thread only.
  virtual void post(std::coroutine_handle<> waiter) = 0;

 protected:
  ~Executor() = default;
};

}  // namespace tidemark
