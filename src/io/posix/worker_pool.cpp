#include "io/posix/worker_pool.hpp"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <system_error>

#include "io/posix/perform.hpp"

namespace tidemark::posix {
namespace {

// In backend_data[0] of what is asked of a file.
constexpr std::uint64_t takes_turns_mark = 1, admitted_mark = 2;

// A file that does not answer, because its file system is frozen or its server gone, leaves workers to others.
constexpr unsigned side_by_side_max = 16;

bool is_of_file(const IoOp& op) {
  switch (op.kind) {
    case IoOp::Kind::read:
    case IoOp::Kind::write:
    case IoOp::Kind::sync:
    case IoOp::Kind::allocate:
    case IoOp::Kind::extent:
    case IoOp::Kind::truncate:
    case IoOp::Kind::write_back: return true;
    default: return false;
  }
}

bool takes_turns(const IoOp& op) { return (op.backend_data[0] & takes_turns_mark) != 0; }
bool is_admitted(const IoOp& op) { return (op.backend_data[0] & admitted_mark) != 0; }

// Signals are for the threads that expect them.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

void WorkerPool::Queue::push(IoOp& op) {
  op.next = nullptr;
  (last ? last->next : first) = &op;
  last = &op;
}

IoOp* WorkerPool::Queue::pop() {
  IoOp* op = first;
  first = op->next;
  if (!first) last = nullptr;
  return op;
}

bool WorkerPool::Queue::remove(IoOp& op) {
  IoOp* before = nullptr;
  for (IoOp* at = first; at; before = at, at = at->next) {
    if (at != &op) continue;
    (before ? before->next : first) = op.next;
    if (last == &op) last = before;
    return true;
  }
  return false;
}

void WorkerPool::Queue::append(Queue& other) {
  if (other.empty()) return;
  (last ? last->next : first) = other.first;
  last = other.last;
  other = {};
}

WorkerPool::WorkerPool(Wakeup& wakeup, unsigned workers_max)
    : wakeup_(wakeup),
      work_max_(std::max(1u, std::thread::hardware_concurrency())),
      workers_max_(workers_max) {}

WorkerPool::~WorkerPool() {
  TM_ASSERT(idle());
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ready_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::set_workers_max(unsigned workers_max) {
  std::unique_lock lock(mutex_);
  workers_max_ = workers_max;
  const bool another = want_another();           // each that begins calls the next
  lock.unlock();
  if (another) ready_.notify_one();
}

void WorkerPool::submit(IoOp& op, bool takes_turns) noexcept {
  ++in_flight_;
  work_in_flight_ += op.kind == IoOp::Kind::work;
  op.backend_data[0] = takes_turns ? takes_turns_mark : 0;
  op.backend_data[1] = 0;
  (op.kind == IoOp::Kind::work ? fresh_work_ : fresh_io_).push(op);
}

void WorkerPool::flush() {
  if (fresh_io_.empty() && fresh_work_.empty()) return;
  std::unique_lock lock(mutex_);
  io_.append(fresh_io_);
  work_.append(fresh_work_);
  if (want_another()) {
    lock.unlock();
    ready_.notify_one();
  } else if (workers_.empty()) {                 // the system gives us no thread: do it here
    while (IoOp* op = next_op()) {
      op->result = perform_blocking(*op);
      done(*op);
    }
    wakeup_.notify();
  }
}

bool WorkerPool::cancel(IoOp& op) noexcept {
  std::lock_guard lock(mutex_);
  for (Queue* queue : {&fresh_io_, &fresh_work_, &io_, &work_}) {
    if (!queue->remove(op)) continue;
    leave_lane(op);
    has_ended(op);
    return true;
  }
  for (auto& [file, lane] : lanes_) {
    if (!lane.waiting.remove(op)) continue;
    has_ended(op);
    return true;
  }
  request_cancel(op);
  return false;
}

void WorkerPool::take(std::vector<IoOp*>& completed) {
  std::lock_guard lock(mutex_);
  for (const IoOp* op : done_) has_ended(*op);
  completed.insert(completed.end(), done_.begin(), done_.end());
  done_.clear();
}

void WorkerPool::has_ended(const IoOp& op) noexcept {
  --in_flight_;
  work_in_flight_ -= op.kind == IoOp::Kind::work;
}

bool WorkerPool::runnable() const {
  return !io_.empty() || (!work_.empty() && working_ < work_max_);
}

WorkerPool::Lane& WorkerPool::lane_of(const IoOp& op) {
  return lanes_[static_cast<std::uint64_t>(op.handle) * 2 + takes_turns(op)];
}

IoOp* WorkerPool::next_io() {
  while (!io_.empty()) {
    IoOp* op = io_.pop();
    if (!is_of_file(*op) || is_admitted(*op)) return op;
    Lane& lane = lane_of(*op);
    if (lane.running == (takes_turns(*op) ? 1 : side_by_side_max)) {
      lane.waiting.push(*op);
      continue;
    }
    ++lane.running;
    op->backend_data[0] |= admitted_mark;
    return op;
  }
  return nullptr;
}

void WorkerPool::leave_lane(IoOp& op) {
  if (!is_of_file(op) || !is_admitted(op)) return;
  Lane& lane = lane_of(op);
  if (lane.waiting.empty()) {
    --lane.running;
    return;
  }
  IoOp* next = lane.waiting.pop();               // in its place
  next->backend_data[0] |= admitted_mark;
  io_.push(*next);
}

void WorkerPool::done(IoOp& op) {
  done_.push_back(&op);
  leave_lane(op);
}

IoOp* WorkerPool::next_op() {
  if (IoOp* op = next_io()) return op;
  return runnable() ? work_.pop() : nullptr;
}

bool WorkerPool::start_worker() {
  if (workers_.size() >= workers_max_) return false;
  const SignalsBlocked blocked;
  try {
    workers_.emplace_back([this] { run(); });
  } catch (const std::system_error&) {
    return false;                                // no more threads: those there are will do
  }
  return true;
}

bool WorkerPool::want_another() {
  if (!runnable() || running_ >= workers_max_) return false;
  if (free_ == 0) return start_worker();
  return true;
}

void WorkerPool::run() {
  std::unique_lock lock(mutex_);
  bool notify = false;                           // the reactor, once the lock is free
  for (;;) {
    IoOp* op = running_ < workers_max_ ? next_op() : nullptr;
    if (!op && !notify) {
      if (ending_) return;
      ++free_;
      ready_.wait(lock);
      --free_;
      continue;
    }
    const bool is_work = op && op->kind == IoOp::Kind::work;
    running_ += op != nullptr;
    working_ += is_work;
    const bool another = want_another();         // each that begins calls the next
    lock.unlock();
    if (std::exchange(notify, false)) wakeup_.notify();
    if (another) ready_.notify_one();
    if (op) op->result = perform_blocking(*op);
    lock.lock();
    if (!op) continue;
    --running_;
    working_ -= is_work;
    done(*op);
    notify = done_.size() == 1;
  }
}

}  // namespace tidemark::posix
