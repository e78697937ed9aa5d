// Reactor: runs coroutines on one thread over an IoBackend.
//
// A turn takes completions, waiting for them when nothing else can run, then runs what is ready.
// Reads that the page cache can answer and sockets that have bytes complete without a suspension
// (try_now), up to a budget a turn, so that no task can hold the thread; what comes after that waits
// for the next turn.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <mutex>

#include "io/backend.hpp"
#include "task/cancel.hpp"
#include "task/executor.hpp"
#include "task/task.hpp"

namespace tidemark {

class Reactor final : public Executor {
 public:
  explicit Reactor(IoBackend& io) : io_(io) {}
  Reactor(const Reactor&) = delete;
  ~Reactor();

  IoBackend& backend() noexcept { return io_; }
  Instant now() noexcept { return io_.now(); }

  // Runs `main` to its end, turning; for a program's main and for tests.
  template <class T>
  Result<T> run(Task<T> main) {
    auto handle = main.release();
    handle.resume();
    while (!handle.promise().finished) turn();
    Result<T> outcome = std::move(*handle.promise().outcome);
    handle.destroy();
    return outcome;
  }

  void post(std::coroutine_handle<> waiter) override { ready_.push_back(waiter); }
  // From any thread: runs `call` on this reactor's thread in a later turn.
  void post_remote(std::function<void()> call);

  // co_await reactor.perform(op): the op's result, bytes or -errno.
  class Perform {
   public:
    Perform(Reactor& reactor, IoOp& op) : reactor_(reactor), op_(op) {}
    Perform(const Perform&) = delete;
    ~Perform() { TM_ASSERT(op_.state == IoOp::State::idle); }   // cancel, then await
    bool await_ready() { return reactor_.try_now(op_); }
    void await_suspend(std::coroutine_handle<> waiter) { reactor_.begin(op_, waiter); }
    std::int64_t await_resume() const noexcept {
      op_.state = IoOp::State::idle;
      return op_.result;
    }

   protected:
    Reactor& reactor_;
    IoOp& op_;
  };
  Perform perform(IoOp& op) { return Perform(*this, op); }

  // The same, ended early with -ECANCELED when the token is asked (sockets, and what has not begun).
  class CancellablePerform final : public Perform, CancelWaiter {
   public:
    CancellablePerform(Reactor& reactor, IoOp& op, CancelToken token)
        : Perform(reactor, op), token_(token) {}
    bool await_ready();
    void await_suspend(std::coroutine_handle<> waiter) {
      token_.add(*this);
      Perform::await_suspend(waiter);
    }

   private:
    void on_cancel() noexcept override;
    CancelToken token_;
  };
  CancellablePerform perform(IoOp& op, CancelToken token) {
    return CancellablePerform(*this, op, token);
  }

  // Lets everything else that is ready run first.
  class Yield {
   public:
    explicit Yield(Reactor& reactor) : reactor_(reactor) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiter) { reactor_.post(waiter); }
    void await_resume() const noexcept {}

   private:
    Reactor& reactor_;
  };
  Yield yield() { return Yield(*this); }

  // co_await here.go_to(there): what follows runs on the other reactor's thread.  It leaves between two
  // turns, when nothing above it on this thread's stack looks at it any more.
  class Departure {
   public:
    Departure(Reactor& here, Reactor& there) : here_(here), there_(there) {}
    bool await_ready() const noexcept { return &here_ == &there_; }
    void await_suspend(std::coroutine_handle<> traveller) { here_.departures_.push_back({traveller, &there_}); }
    void await_resume() const noexcept {}

   private:
    Reactor& here_;
    Reactor& there_;
  };
  Departure go_to(Reactor& there) { return Departure(*this, there); }

  Task<> sleep(Duration duration, CancelToken token = {}) { return sleep_until(now() + duration, token); }
  Task<> sleep_until(Instant when, CancelToken token = {});

  // Runs `work` on a worker thread (a simulation: here, later).  It must not touch the reactor.
  Task<> offload(std::function<void()> work);

  // One turn; waits at most until the next timer.
  void turn();

 private:
  class Timer;
  bool try_now(IoOp& op) noexcept;
  void begin(IoOp& op, std::coroutine_handle<> waiter);
  void submit(IoOp& op);
  void resume(IoOp& op);
  void cancel(IoOp& op) noexcept;
  void complete();
  void run_deferred();
  void run_ready();
  void run_timers();
  void run_remote();
  void run_departures();

  IoBackend& io_;
  std::deque<std::coroutine_handle<>> ready_;
  std::multimap<Instant, Timer*> timers_;
  std::vector<IoOp*> completed_;
  std::uint64_t in_flight_ = 0;
  std::int64_t inline_budget_ = 0;                // bytes, and a charge an op, left this turn
  std::deque<IoOp*> deferred_;                    // wait for the next turn's budget

  struct Leaving {
    std::coroutine_handle<> traveller;
    Reactor* to;
  };
  std::vector<Leaving> departures_;

  std::mutex remote_mutex_;
  std::vector<std::function<void()>> remote_;
};

}  // namespace tidemark
