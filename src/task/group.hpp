// TaskGroup: tasks that run side by side and end before the block that started them does.
//
//   co_await with_group(executor, [&](TaskGroup& group) -> Task<> {
//     group.spawn(copy(a));
//     group.spawn(copy(b));
//     co_await group.join();              // both done; the first error, if any
//   });
//
// When the body returns without joining, what still runs is cancelled (group.token()) and awaited.
// The first task that fails cancels the others.
#pragma once

#include <utility>

#include "task/sync.hpp"

namespace tidemark {

class TaskGroup {
 public:
  TaskGroup(const TaskGroup&) = delete;

  // Starts at once, up to its first suspension.  The task should watch token().
  void spawn(Task<> task);

  // Waits until no task runs; ends with the first error of a task.
  Task<> join();

  void cancel() noexcept { source_.request(); }
  CancelToken token() noexcept { return source_.token(); }
  std::uint64_t running() const noexcept { return running_; }

 private:
  template <class Body>
  friend auto with_group(Executor& executor, Body body) -> decltype(body(std::declval<TaskGroup&>()));

  class Child;
  explicit TaskGroup(Executor& executor) : executor_(executor), idle_(executor) {}
  ~TaskGroup();
  void finished(Child& child) noexcept;
  void reap() noexcept;

  Executor& executor_;
  CancelSource source_;
  WaitQueue idle_;
  Child* done_ = nullptr;                 // finished, frames still to be destroyed
  std::uint64_t running_ = 0;
  std::optional<Error> first_error_;
};

template <class Body>
auto with_group(Executor& executor, Body body) -> decltype(body(std::declval<TaskGroup&>())) {
  TaskGroup group(executor);
  auto outcome = co_await body(group).result();
  if (group.running_ != 0) group.cancel();
  Result<void> joined = co_await group.join().result();
  if (!outcome) co_await outcome.error();
  if (!joined && joined.error().code() != Errc::cancelled) co_await joined.error();
  if constexpr (!std::is_void_v<std::decay_t<decltype(*outcome)>>) co_return *std::move(outcome);
}

}  // namespace tidemark
