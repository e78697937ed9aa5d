// SimProcess: a program on a SimWorld: a backend and its reactor.  It runs while another process
// waits, or by its own run() and join(); several interleave as the seed decides.
//
// What was started must have ended before a SimProcess goes: join() it, or stop() it.
#pragma once

#include "io/reactor.hpp"
#include "io/sim/backend.hpp"

namespace tidemark {

class SimProcess {
 public:
  explicit SimProcess(SimWorld& world, std::string name = "process")
      : backend_(world, std::move(name)), reactor_(backend_) {
    backend_.run_with([this] { reactor_.turn(); });
  }
  SimProcess(const SimProcess&) = delete;
  ~SimProcess() { TM_ASSERT(!main_); }

  SimBackend& backend() noexcept { return backend_; }
  Reactor& reactor() noexcept { return reactor_; }

  // Runs `main` to its end, and the other processes meanwhile.
  template <class T>
  Result<T> run(Task<T> main) {
    return reactor_.run(std::move(main));
  }

  // Starts `main`, up to its first suspension; it goes on while other processes wait.
  void start(Task<> main) {
    TM_ASSERT(!main_);
    main_ = main.release();
    main_.resume();
  }
  bool running() const noexcept { return main_ && !main_.promise().finished; }

  // Waits for the end of what was started, and returns it.
  Result<> join() {
    TM_ASSERT(main_);
    // A dead process has nothing to wait for: one that does not end then is caught in a loop.
    for (std::uint64_t turns = 0; running(); ++turns) {
      TM_ASSERT(backend_.alive() || turns < turns_to_die);
      reactor_.turn();
    }
    Result<> outcome = std::move(*main_.promise().outcome);
    std::exchange(main_, {}).destroy();
    return outcome;
  }
  // kill -9, and the end of its coroutines.
  Result<> stop() {
    backend_.kill();
    return join();
  }

 private:
  static constexpr std::uint64_t turns_to_die = 1'000'000;
  SimBackend backend_;
  Reactor reactor_;
  std::coroutine_handle<detail::Promise<void>> main_;
};

}  // namespace tidemark
