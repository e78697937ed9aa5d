// co_await visit(here, there, work): runs `work` on another reactor's thread and comes back.
//
// The coroutine that awaits it goes on on `here`, whatever became of the work; between the two nothing
// of it runs, so the work may use what the coroutine owns.  Free when both are one.
#pragma once

#include "io/reactor.hpp"

namespace tidemark {

template <class T>
Task<T> visit(Reactor& here, Reactor& there, Task<T> work) {
  co_await here.go_to(there);
  Result<T> outcome = co_await std::move(work).result();
  co_await there.go_to(here);
  co_return co_await unwrap(std::move(outcome));
}

}  // namespace tidemark
