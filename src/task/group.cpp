#include "task/group.hpp"

#include <new>

namespace tidemark {

class TaskGroup::Child final : public detail::Waiter {
 public:
  Child(TaskGroup& group, Task<> task) : group_(group), handle_(task.release()) {}
  ~Child() { handle_.destroy(); }
  void start() {
    handle_.promise().waiter = this;
    handle_.resume();                   // may finish, and so be on the group's done list already
  }
  void child_finished() noexcept override { group_.finished(*this); }
  const Result<void>& outcome() const { return *handle_.promise().outcome; }

  Child* next = nullptr;

 private:
  TaskGroup& group_;
  std::coroutine_handle<detail::Promise<void>> handle_;
};

TaskGroup::~TaskGroup() {
  TM_ASSERT(running_ == 0);
  reap();
}

void TaskGroup::spawn(Task<> task) {
  reap();
  ++running_;
  (new Child(*this, std::move(task)))->start();
}

void TaskGroup::finished(Child& child) noexcept {
  // Its frame is still on the stack: it is destroyed later, by reap().
  child.next = done_;
  done_ = &child;
  --running_;
  if (!child.outcome() && !first_error_) {
    first_error_ = child.outcome().error();
    if (!source_.requested()) source_.request();
  }
  if (running_ == 0) idle_.wake_all();
}

void TaskGroup::reap() noexcept {
  while (Child* child = done_) {
    done_ = child->next;
    delete child;
  }
}

Task<> TaskGroup::join() {
  while (running_ != 0) co_await idle_.wait();
  reap();
  if (first_error_) co_await *first_error_;
}

}  // namespace tidemark
