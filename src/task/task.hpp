// Task<T>: a lazily started coroutine, awaited exactly once, on the thread of who awaits it.
//
//   Task<uint64_t> size = node.size();          nothing has run yet
//   uint64_t n = co_await std::move(size);      value; or this coroutine ends with the same Error
//   Result<uint64_t> r = co_await node.size().result();   look at the error here instead
//   co_await Error(Errc::corrupt, "...");       end this coroutine with an error
//
// A child that never suspends does not suspend its parent either, so a loop over cached reads
// neither grows the stack nor touches the reactor.  This deliberately does not rely on symmetric
// transfer: GCC 12 turns it into a tail call only with -foptimize-sibling-calls, and never under
// ASan or TSan.
//
// When a task fails through a child, its frame is destroyed by its owner, which unwinds its locals;
// cleanup that itself awaits belongs into finally() (task/finally.hpp).
#pragma once

#include <coroutine>
#include <exception>
#include <optional>

#include "base/error.hpp"
#include "task/frame_pool.hpp"

namespace tidemark {

template <class T = void>
class Task;

namespace detail {

class Waiter {                          // who is told when a task has finished
 public:
  virtual void child_finished() noexcept = 0;

 protected:
  ~Waiter() = default;
};

struct PromiseBase {
  Waiter* waiter = nullptr;
  bool finished = false;

  static void* operator new(std::size_t size) { return allocate_frame(size); }
  static void operator delete(void* frame, std::size_t size) noexcept { free_frame(frame, size); }

  std::suspend_always initial_suspend() noexcept { return {}; }
  void unhandled_exception() noexcept { std::terminate(); }   // exceptions are bugs here

  void finish() noexcept {              // may destroy *this: touch nothing afterwards
    finished = true;
    if (waiter) waiter->child_finished();
  }
  struct Final {
    bool await_ready() noexcept { return false; }
    template <class P>
    void await_suspend(std::coroutine_handle<P> h) noexcept { h.promise().finish(); }
    void await_resume() noexcept {}
  };
  Final final_suspend() noexcept { return {}; }
};

template <class T>
struct Promise : PromiseBase {
  std::optional<Result<T>> outcome;
  Task<T> get_return_object() noexcept;
  template <class U>
  void return_value(U&& u) { outcome.emplace(std::forward<U>(u)); }
  void fail(Error e) { outcome.emplace(std::move(e)); }
};

template <>
struct Promise<void> : PromiseBase {
  std::optional<Result<void>> outcome;
  Task<void> get_return_object() noexcept;
  void return_void() { outcome.emplace(); }      // falling off the end is success, not undefined
  void fail(Error e) { outcome.emplace(std::move(e)); }
};

// co_await Error(...): end this coroutine with that error.  Nothing is thrown.
class FailAwaiter {
 public:
  explicit FailAwaiter(Error error) : error_(std::move(error)) {}
  bool await_ready() const noexcept { return false; }
  template <class P>
  void await_suspend(std::coroutine_handle<P> self) {
    auto& promise = self.promise();
    promise.fail(std::move(error_));
    promise.finish();                   // may destroy *this
  }
  [[noreturn]] void await_resume() const noexcept { std::terminate(); }

 private:
  Error error_;
};

template <class T>
class AwaiterBase : public Waiter {
 public:
  explicit AwaiterBase(std::coroutine_handle<Promise<T>> child) : child_(child) {}
  AwaiterBase(const AwaiterBase&) = delete;
  ~AwaiterBase() { if (child_) child_.destroy(); }

 protected:
  bool run_child() {
    child_.resume();
    return child_.promise().finished;
  }
  Result<T> take() {                    // the child's frame dies before its parent goes on
    Result<T> r = std::move(*child_.promise().outcome);
    std::exchange(child_, {}).destroy();
    return r;
  }
  std::coroutine_handle<Promise<T>> child_;
};

template <class T>
class ResultAwaiter final : public AwaiterBase<T> {
 public:
  using AwaiterBase<T>::AwaiterBase;
  bool await_ready() { return this->run_child(); }
  void await_suspend(std::coroutine_handle<> parent) {
    parent_ = parent;
    this->child_.promise().waiter = this;
  }
  Result<T> await_resume() { return this->take(); }

 private:
  void child_finished() noexcept override { parent_.resume(); }
  std::coroutine_handle<> parent_;
};

template <class T>
class ValueAwaiter final : public AwaiterBase<T> {
 public:
  using AwaiterBase<T>::AwaiterBase;
  bool await_ready() { return this->run_child() && this->child_.promise().outcome->ok(); }
  template <class P>
  void await_suspend(std::coroutine_handle<P> parent) {
    parent_ = parent;
    fail_parent_ = [](std::coroutine_handle<> h, Error e) {
      auto& promise = std::coroutine_handle<P>::from_address(h.address()).promise();
      promise.fail(std::move(e));
      promise.finish();                 // parent is never resumed; its owner destroys it
    };
    if (this->child_.promise().finished) child_finished();
    else this->child_.promise().waiter = this;
  }
  T await_resume() { return *this->take(); }

 private:
  void child_finished() noexcept override {
    if (this->child_.promise().outcome->ok()) return parent_.resume();
    auto parent = parent_;
    auto fail = fail_parent_;
    Error error = this->take().error();
    fail(parent, std::move(error));
  }
  std::coroutine_handle<> parent_;
  void (*fail_parent_)(std::coroutine_handle<>, Error) = nullptr;
};

}  // namespace detail

template <class T>
class [[nodiscard]] Task {
 public:
  using promise_type = detail::Promise<T>;
  explicit Task(std::coroutine_handle<promise_type> h) noexcept : handle_(h) {}
  Task(Task&& o) noexcept : handle_(std::exchange(o.handle_, {})) {}
  Task& operator=(Task&&) = delete;
  ~Task() { if (handle_) handle_.destroy(); }

  auto operator co_await() && { return detail::ValueAwaiter<T>(std::exchange(handle_, {})); }

  // Awaits to a Result<T> instead of ending the awaiting coroutine with the error.
  auto result() && {
    class AsResult {
     public:
      explicit AsResult(std::coroutine_handle<promise_type> task) : task_(task) {}
      auto operator co_await() && { return detail::ResultAwaiter<T>(std::exchange(task_, {})); }
     private:
      std::coroutine_handle<promise_type> task_;
    };
    return AsResult(std::exchange(handle_, {}));
  }

  // For runners (Reactor, TaskGroup): the caller now owns the frame.
  std::coroutine_handle<promise_type> release() { return std::exchange(handle_, {}); }

 private:
  std::coroutine_handle<promise_type> handle_;
};

inline auto operator co_await(Error error) { return detail::FailAwaiter(std::move(error)); }

// co_await unwrap(result): the value, or end this coroutine with the error.
template <class T>
class [[nodiscard]] UnwrapAwaiter {
 public:
  explicit UnwrapAwaiter(Result<T> result) : result_(std::move(result)) {}
  bool await_ready() const noexcept { return result_.ok(); }
  template <class P>
  void await_suspend(std::coroutine_handle<P> self) {
    auto& promise = self.promise();
    promise.fail(result_.error());
    promise.finish();                   // may destroy *this
  }
  T await_resume() {
    if constexpr (!std::is_void_v<T>) return *std::move(result_);
  }

 private:
  Result<T> result_;
};

template <class T>
UnwrapAwaiter<T> unwrap(Result<T> result) { return UnwrapAwaiter<T>(std::move(result)); }

template <class T>
Task<T> detail::Promise<T>::get_return_object() noexcept {
  return Task<T>(std::coroutine_handle<Promise>::from_promise(*this));
}
inline Task<void> detail::Promise<void>::get_return_object() noexcept {
  return Task<void>(std::coroutine_handle<Promise>::from_promise(*this));
}

}  // namespace tidemark
