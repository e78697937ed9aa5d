// Mutex, Semaphore, Event, Gate: waiting inside one thread.  All are fair (first come, first served)
// and wake through the Executor's ready queue, never inline.
//
// A coroutine frame may be destroyed while it waits; between being woken and running it may not
// (asserted): cancel it, then await it.
#pragma once

#include <cstdint>

#include "task/cancel.hpp"
#include "task/executor.hpp"
#include "task/task.hpp"

namespace tidemark {

// FIFO of suspended coroutines: what the classes below are made of.
class WaitQueue {
 public:
  class Node : public CancelWaiter {
   public:
    Node() = default;
    ~Node();
    void on_cancel() noexcept override;
    std::uint64_t want = 0;             // the owner's to use: units asked for

   private:
    friend class WaitQueue;
    enum class State : std::uint8_t { idle, waiting, posted, cancelled };
    State state_ = State::idle;
    WaitQueue* queue_ = nullptr;
    Node* before_ = nullptr;
    Node* after_ = nullptr;
    std::coroutine_handle<> waiter_;
  };

  explicit WaitQueue(Executor& executor) : executor_(executor) {}
  WaitQueue(const WaitQueue&) = delete;
  ~WaitQueue() { TM_ASSERT(!first_); }

  // Awaits to true when woken, false when cancelled.
  class Wait {
   public:
    Wait(WaitQueue& queue, CancelToken token, std::uint64_t want) : queue_(queue), token_(token) {
      node_.want = want;
    }
    bool await_ready() const noexcept { return token_.requested(); }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { queue_.push(node_, waiter, token_); }
    bool await_resume() noexcept;

   private:
    WaitQueue& queue_;
    CancelToken token_;
    Node node_;
  };
  Wait wait(CancelToken token = {}, std::uint64_t want = 0) { return Wait(*this, token, want); }

  bool empty() const noexcept { return !first_; }
  std::uint64_t first_want() const noexcept { return first_->want; }
  void wake_one() noexcept;             // the first; there must be one
  void wake_all() noexcept;
  Executor& executor() noexcept { return executor_; }

 private:
  void push(Node& node, std::coroutine_handle<> waiter, CancelToken token) noexcept;
  void remove(Node& node) noexcept;
  void resume(Node& node, Node::State as) noexcept;

  Executor& executor_;
  Node* first_ = nullptr;
  Node* last_ = nullptr;
};

class Mutex {
 public:
  explicit Mutex(Executor& executor) : waiters_(executor) {}

  class [[nodiscard]] Guard {
   public:
    Guard() = default;
    explicit Guard(Mutex& mutex) : mutex_(&mutex) {}
    Guard(Guard&& o) noexcept : mutex_(std::exchange(o.mutex_, nullptr)) {}
    Guard& operator=(Guard&& o) noexcept {
      unlock();
      mutex_ = std::exchange(o.mutex_, nullptr);
      return *this;
    }
    ~Guard() { unlock(); }
    void unlock() noexcept {
      if (mutex_) std::exchange(mutex_, nullptr)->unlock();
    }

   private:
    Mutex* mutex_ = nullptr;
  };

  // auto guard = co_await mutex.lock();
  Task<Guard> lock();
  bool locked() const noexcept { return locked_; }

 private:
  void unlock() noexcept;
  WaitQueue waiters_;
  bool locked_ = false;
};

// Counts units.  A large request at the head is not overtaken by small ones behind it.
class Semaphore {
 public:
  Semaphore(Executor& executor, std::uint64_t units) : waiters_(executor), available_(units) {}
  Task<> acquire(std::uint64_t units = 1, CancelToken token = {});
  bool try_acquire(std::uint64_t units = 1) noexcept;
  void release(std::uint64_t units = 1) noexcept;
  std::uint64_t available() const noexcept { return available_; }

 private:
  void grant() noexcept;
  WaitQueue waiters_;
  std::uint64_t available_;
};

// Waiters pass while it is set; notify_all() lets the present ones pass without setting it.
class Event {
 public:
  explicit Event(Executor& executor) : waiters_(executor) {}
  bool is_set() const noexcept { return set_; }
  void set() noexcept {
    set_ = true;
    waiters_.wake_all();
  }
  void reset() noexcept { set_ = false; }
  void notify_all() noexcept { waiters_.wake_all(); }
  Task<> wait(CancelToken token = {});

 private:
  WaitQueue waiters_;
  bool set_ = false;
};

// Counts what is in flight and lets one wait for none.
class Gate {
 public:
  explicit Gate(Executor& executor) : idle_(executor) {}

  class [[nodiscard]] Holder {
   public:
    explicit Holder(Gate& gate) noexcept : gate_(&gate) { ++gate.count_; }
    Holder(Holder&& o) noexcept : gate_(std::exchange(o.gate_, nullptr)) {}
    Holder& operator=(Holder&&) = delete;
    ~Holder() {
      if (gate_ && --gate_->count_ == 0) gate_->idle_.wake_all();
    }

   private:
    Gate* gate_;
  };

  Holder enter() noexcept { return Holder(*this); }
  std::uint64_t count() const noexcept { return count_; }
  Task<> wait_idle();

 private:
  WaitQueue idle_;
  std::uint64_t count_ = 0;
};

}  // namespace tidemark
