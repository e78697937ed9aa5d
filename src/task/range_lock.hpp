// RangeLock: shared or exclusive locks on byte ranges, granted in order of arrival where they
// overlap, so that nobody starves.  One thread; costs one pass over the locks held and waited for.
#pragma once

#include "base/units.hpp"
#include "task/executor.hpp"
#include "task/task.hpp"

namespace tidemark {

class RangeLock {
 public:
  enum class Mode : std::uint8_t { shared, exclusive };

 private:
  struct Entry {
    Range range;
    Mode mode = Mode::shared;
    bool granted = false;
    bool posted = false;                         // granted, and not yet resumed
    std::coroutine_handle<> waiter;
    Entry* before = nullptr;
    Entry* after = nullptr;
  };

 public:
  class [[nodiscard]] Guard {
   public:
    Guard(const Guard&) = delete;
    ~Guard() {
      TM_ASSERT(!entry_.posted);                 // it would be resumed after its frame is gone
      unlock();
    }
    void unlock() noexcept {
      if (lock_) std::exchange(lock_, nullptr)->remove(entry_);
    }
    Range range() const noexcept { return entry_.range; }

   private:
    friend class RangeLock;
    Guard(RangeLock& lock, Range range, Mode mode) : lock_(&lock) {
      entry_.range = range;
      entry_.mode = mode;
    }
    // Awaits the grant; made by hold() and guaranteed not to move.
   public:
    bool await_ready() noexcept { return lock_->append(entry_); }
    void await_suspend(std::coroutine_handle<> waiter) noexcept { entry_.waiter = waiter; }
    void await_resume() noexcept { entry_.posted = false; }

   private:
    RangeLock* lock_;
    Entry entry_;
  };

  explicit RangeLock(Executor& executor) : executor_(executor) {}
  RangeLock(const RangeLock&) = delete;
  ~RangeLock() { TM_ASSERT(!first_); }

  // auto guard = lock.hold(range, RangeLock::Mode::exclusive);
  // co_await guard;                 // granted from here until guard goes or is unlocked
  // Destroying a guard that still waits withdraws it.
  Guard hold(Range range, Mode mode) { return Guard(*this, range, mode); }

  bool idle() const noexcept { return !first_; }

 private:
  bool append(Entry& entry) noexcept;            // true when granted at once
  void remove(Entry& entry) noexcept;
  bool blocked(const Entry& entry) const noexcept;

  Executor& executor_;
  Entry* first_ = nullptr;                       // in order of arrival, granted or not
  Entry* last_ = nullptr;
};

}  // namespace tidemark
