#include "io/reactor.hpp"

namespace tidemark {
namespace {

constexpr std::int64_t inline_budget_per_turn = 4 * 1024 * 1024;
constexpr std::int64_t inline_charge_per_op = 16 * 1024;

}  // namespace

class Reactor::Timer final : public CancelWaiter {
 public:
  explicit Timer(Reactor& reactor, Instant when, CancelToken token)
      : reactor_(reactor), when_(when), token_(token) {}
  Timer(const Timer&) = delete;
  ~Timer() {
    TM_ASSERT(!posted_);
    if (armed_) reactor_.timers_.erase(place_);
  }

  bool await_ready() const noexcept { return token_.requested(); }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    place_ = reactor_.timers_.emplace(when_, this);
    armed_ = true;
    token_.add(*this);
  }
  bool await_resume() noexcept {                 // false when cancelled
    posted_ = false;
    return fired_;
  }
  void fire() noexcept {
    fired_ = true;
    unlink();
    release();
  }
  void on_cancel() noexcept override { release(); }

 private:
  void release() noexcept {
    reactor_.timers_.erase(place_);
    armed_ = false;
    posted_ = true;
    reactor_.post(waiter_);
  }
  Reactor& reactor_;
  Instant when_;
  CancelToken token_;
  std::coroutine_handle<> waiter_;
  std::multimap<Instant, Timer*>::iterator place_;
  bool armed_ = false, posted_ = false, fired_ = false;
};

Reactor::~Reactor() {
  TM_ASSERT(in_flight_ == 0 && departures_.empty());   // what owns I/O has ended it
}

bool Reactor::try_now(IoOp& op) noexcept {
  if (inline_budget_ <= 0 || !io_.try_now(op)) return false;
  inline_budget_ -= inline_charge_per_op + (op.result > 0 ? op.result : 0);
  return true;
}

void Reactor::begin(IoOp& op, std::coroutine_handle<> waiter) {
  op.waiter = waiter;
  ++in_flight_;
  if (inline_budget_ > 0) return submit(op);     // it was tried
  op.state = IoOp::State::deferred;
  deferred_.push_back(&op);
}

void Reactor::submit(IoOp& op) {
  op.state = IoOp::State::submitted;
  io_.submit(op);
}

void Reactor::resume(IoOp& op) {
  op.state = IoOp::State::completed;
  --in_flight_;
  op.waiter.resume();
}

void Reactor::run_deferred() {
  while (!deferred_.empty() && inline_budget_ > 0) {
    IoOp& op = *deferred_.front();
    deferred_.pop_front();
    if (try_now(op)) resume(op);
    else submit(op);
  }
}

void Reactor::cancel(IoOp& op) noexcept {
  if (op.state == IoOp::State::submitted) return io_.cancel(op);
  if (op.state != IoOp::State::deferred) return;
  std::erase(deferred_, &op);
  --in_flight_;
  op.state = IoOp::State::completed;
  op.result = -ECANCELED;
  post(op.waiter);
}

bool Reactor::CancellablePerform::await_ready() {
  if (!token_.requested()) return Perform::await_ready();
  op_.result = -ECANCELED;
  return true;
}

void Reactor::CancellablePerform::on_cancel() noexcept {
  reactor_.cancel(op_);
}

Task<> Reactor::sleep_until(Instant when, CancelToken token) {
  Timer timer(*this, when, token);
  const bool fired = co_await timer;
  if (!fired) co_await cancelled_error();
}

Task<> Reactor::offload(std::function<void()> work) {
  IoOp::Extra extra;
  extra.work = std::move(work);
  IoOp op(IoOp::Kind::work);
  op.extra = &extra;
  (void)co_await perform(op);
}

void Reactor::post_remote(std::function<void()> call) {
  {
    std::lock_guard lock(remote_mutex_);
    remote_.push_back(std::move(call));
  }
  io_.wake();
}

void Reactor::run_remote() {
  std::vector<std::function<void()>> calls;
  {
    std::lock_guard lock(remote_mutex_);
    calls.swap(remote_);
  }
  for (auto& call : calls) call();
}

void Reactor::run_departures() {
  for (const Leaving& leaving : std::exchange(departures_, {}))
    leaving.to->post_remote([traveller = leaving.traveller] { traveller.resume(); });
}

void Reactor::run_ready() {
  // Only what is ready now: what it posts waits for the completions of this turn.
  for (std::size_t left = ready_.size(); left != 0; --left) {
    auto waiter = ready_.front();
    ready_.pop_front();
    waiter.resume();
  }
}

void Reactor::run_timers() {
  while (!timers_.empty() && timers_.begin()->first <= now()) timers_.begin()->second->fire();
}

void Reactor::turn() {
  if (!departures_.empty()) run_departures();
  // Waits first: a task that ends in here is seen before the next wait.
  const Instant next_timer = timers_.empty() ? no_deadline : timers_.begin()->first;
  const bool poll = !ready_.empty() || !deferred_.empty();
  io_.wait(poll ? Instant::min() : next_timer, completed_);
  inline_budget_ = inline_budget_per_turn;
  complete();
  run_deferred();
  run_remote();
  if (!timers_.empty()) run_timers();
  run_ready();
}

void Reactor::complete() {
  for (IoOp* op : completed_) op->state = IoOp::State::completed;
  for (IoOp* op : completed_) resume(*op);
  completed_.clear();
}

}  // namespace tidemark
