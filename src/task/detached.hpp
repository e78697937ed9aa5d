// run_detached(task, holder): runs a task to its end with nobody waiting for it.
//
// The gate's holder says that it has not ended: whoever owns what the task uses awaits
// Gate::wait_idle() before that goes.  The task's outcome is dropped; one that can fail in a way
// that matters tells somebody itself.
#pragma once

#include "task/sync.hpp"

namespace tidemark {

namespace detail {

struct Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

inline Detached detach(Task<> task, Gate::Holder running) {
  const Gate::Holder until_the_end = std::move(running);
  (void)co_await std::move(task).result();
}

}  // namespace detail

inline void run_detached(Task<> task, Gate::Holder running) {
  detail::detach(std::move(task), std::move(running));
}

}  // namespace tidemark
