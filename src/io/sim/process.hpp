// SimProcess: a program on a SimWorld: a backend and its reactor.
//
//   SimWorld world(seed);
//   SimProcess server(world, "server"), client(world, "client");
//   server.start(serve(server.reactor()));
//   Result<> talked = client.run(talk(client.reactor()));     // the server runs meanwhile
//   world.crash();
//   Result<> served = server.join();                          // ended with EIO
//   SimProcess restarted(world, "server");                    // finds what was durable
//
// A process runs in its own run() and join(), and while another one waits; the seed decides how they
// interleave.  run() and join() may be called from another process's coroutine, which then stands
// still.  What was started must have ended before its SimProcess goes: join() it, or stop() it.
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
    const SimBackend::OnStack here(backend_);
    return reactor_.run(std::move(main));
  }

  // Starts `main`, up to its first suspension; it goes on while other processes wait.
  void start(Task<> main) {
    TM_ASSERT(!main_);
    const SimBackend::OnStack here(backend_);
    main_ = main.release();
    main_.resume();
  }
  bool running() const noexcept { return main_ && !main_.promise().finished; }

  // Waits for the end of what was started, and returns it.
  Result<> join() {
    TM_ASSERT(main_);
    const SimBackend::OnStack here(backend_);
    while (running()) reactor_.turn();
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
  SimBackend backend_;
  Reactor reactor_;
  std::coroutine_handle<detail::Promise<void>> main_;
};

}  // namespace tidemark
