// Cancellation: a CancelSource is asked once; everything that waits with its CancelToken ends with
// Errc::cancelled.  Single thread.  A token may outlive nothing: its source lives longer.
//
// What waits registers a CancelWaiter for the time it waits; on_cancel() runs inside request(), and
// must only make its waiter runnable (post it, or ask the backend to end its operation).
#pragma once

#include "base/error.hpp"

namespace tidemark {

class CancelSource;

class CancelWaiter {
 public:
  CancelWaiter() = default;
  CancelWaiter(const CancelWaiter&) = delete;
  virtual void on_cancel() noexcept = 0;

 protected:
  ~CancelWaiter() { unlink(); }
  void unlink() noexcept {
    if (previous_) previous_->next_ = next_;
    if (next_) next_->previous_ = previous_;
    previous_ = next_ = nullptr;
  }

 private:
  friend class CancelSource;
  friend class CancelToken;
  CancelWaiter* previous_ = nullptr;
  CancelWaiter* next_ = nullptr;
};

class CancelToken {
 public:
  CancelToken() = default;                      // one that is never asked
  bool requested() const noexcept;
  void add(CancelWaiter& waiter) const noexcept;

 private:
  friend class CancelSource;
  explicit CancelToken(CancelSource* source) : source_(source) {}
  CancelSource* source_ = nullptr;
};

class CancelSource {
 public:
  CancelSource() = default;
  CancelSource(const CancelSource&) = delete;
  CancelToken token() noexcept { return CancelToken(this); }
  bool requested() const noexcept { return requested_; }
  void request() noexcept {
    requested_ = true;
    while (CancelWaiter* first = head_.next_) {
      first->unlink();
      first->on_cancel();
    }
  }

 private:
  friend class CancelToken;
  struct Head final : CancelWaiter {
    void on_cancel() noexcept override {}
  };
  Head head_;
  bool requested_ = false;
};

inline bool CancelToken::requested() const noexcept { return source_ && source_->requested_; }

inline void CancelToken::add(CancelWaiter& waiter) const noexcept {
  if (!source_) return;
  CancelWaiter& head = source_->head_;
  waiter.previous_ = &head;
  waiter.next_ = head.next_;
  if (head.next_) head.next_->previous_ = &waiter;
  head.next_ = &waiter;
}

inline Error cancelled_error() { return Error(Errc::cancelled, "cancelled"); }

}  // namespace tidemark
