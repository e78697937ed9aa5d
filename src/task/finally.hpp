// co_await finally(body, cleanup): runs `cleanup` (a callable that returns Task<>) after `body` on
// every path.  The body's error wins over the cleanup's.  The one construct for cleanup that awaits.
#pragma once

#include "task/task.hpp"

namespace tidemark {

template <class T, class Cleanup>
Task<T> finally(Task<T> body, Cleanup cleanup) {
  Result<T> outcome = co_await std::move(body).result();
  Result<void> cleaned = co_await cleanup().result();
  if (!outcome) co_await outcome.error();
  if (!cleaned) co_await cleaned.error();
  if constexpr (std::is_void_v<T>) co_return;
  else co_return *std::move(outcome);
}

}  // namespace tidemark
