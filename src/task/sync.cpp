#include "task/sync.hpp"

namespace tidemark {

WaitQueue::Node::~Node() {
  TM_ASSERT(state_ != State::posted);           // it would be resumed after its frame is gone
  if (state_ == State::waiting) queue_->remove(*this);
}

void WaitQueue::Node::on_cancel() noexcept {
  if (state_ != State::waiting) return;
  queue_->remove(*this);
  queue_->resume(*this, State::cancelled);
}

bool WaitQueue::Wait::await_resume() noexcept {
  const bool woken = node_.state_ == Node::State::posted;
  node_.state_ = Node::State::idle;
  return woken;
}

void WaitQueue::push(Node& node, std::coroutine_handle<> waiter, CancelToken token) noexcept {
  node.state_ = Node::State::waiting;
  node.queue_ = this;
  node.waiter_ = waiter;
  node.before_ = last_;
  node.after_ = nullptr;
  (last_ ? last_->after_ : first_) = &node;
  last_ = &node;
  token.add(node);
}

void WaitQueue::remove(Node& node) noexcept {
  (node.before_ ? node.before_->after_ : first_) = node.after_;
  (node.after_ ? node.after_->before_ : last_) = node.before_;
}

void WaitQueue::resume(Node& node, Node::State as) noexcept {
  node.unlink();                                // no longer cancellable
  node.state_ = as;
  executor_.post(node.waiter_);
}

void WaitQueue::wake_one() noexcept {
  Node* node = first_;
  remove(*node);
  resume(*node, Node::State::posted);
}

void WaitQueue::wake_all() noexcept {
  while (first_) wake_one();
}

Task<Mutex::Guard> Mutex::lock() {
  if (locked_) co_await waiters_.wait();        // unlock() hands the lock over
  else locked_ = true;
  co_return Guard(*this);
}

void Mutex::unlock() noexcept {
  if (waiters_.empty()) locked_ = false;
  else waiters_.wake_one();
}

bool Semaphore::try_acquire(std::uint64_t units) noexcept {
  if (!waiters_.empty() || available_ < units) return false;
  available_ -= units;
  return true;
}

Task<> Semaphore::acquire(std::uint64_t units, CancelToken token) {
  if (token.requested()) co_await cancelled_error();
  if (try_acquire(units)) co_return;
  // Not inside the condition: GCC 12 lays out the frame wrongly for an awaiter that is a temporary of
  // one (the handle points 8 bytes behind the frame's start).
  const bool granted = co_await waiters_.wait(token, units);
  if (granted) co_return;
  grant();                                      // who waited behind may fit now
  co_await cancelled_error();
}

void Semaphore::release(std::uint64_t units) noexcept {
  available_ += units;
  grant();
}

void Semaphore::grant() noexcept {
  while (!waiters_.empty() && waiters_.first_want() <= available_) {
    available_ -= waiters_.first_want();
    waiters_.wake_one();
  }
}

Task<> Event::wait(CancelToken token) {
  if (set_) co_return;
  const bool woken = co_await waiters_.wait(token);
  if (!woken) co_await cancelled_error();
}

Task<> Gate::wait_idle() {
  while (count_ != 0) co_await idle_.wait();
}

}  // namespace tidemark
