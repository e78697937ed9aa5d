// ReactorThread: a reactor on a thread of its own.
//
// Others reach it by Reactor::post_remote() and go_to().  It ends with this object, on its maker's
// thread: by then nothing may be in flight or ready on it (asserted).
#pragma once

#include <memory>
#include <thread>

#include "io/reactor.hpp"

namespace tidemark {

// The calling thread, which guests wait for, gets a processor soon when it wakes, though others have work for it: it asks Linux for
// short slices (6.12 on; sched_setattr(2), sched_runtime).  What it starts does not inherit that.  A policy that somebody has given it
// stays as it is.
void wake_promptly() noexcept;

class ReactorThread {
 public:
  // `name` is what system tools show, cut to 15 bytes.  Fails when the system gives no thread.
  static Result<std::unique_ptr<ReactorThread>> start(std::unique_ptr<IoBackend> backend, std::string name);
  ReactorThread(const ReactorThread&) = delete;
  ~ReactorThread();

  Reactor& reactor() noexcept { return reactor_; }

 private:
  explicit ReactorThread(std::unique_ptr<IoBackend> backend) : backend_(std::move(backend)), reactor_(*backend_) {}
  void run();

  std::unique_ptr<IoBackend> backend_;
  Reactor reactor_;
  bool ending_ = false;                           // the thread's
  std::thread thread_;
};

}  // namespace tidemark
