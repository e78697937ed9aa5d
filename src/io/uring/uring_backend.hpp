// The backend over Linux io_uring: reads, direct writes and sockets on the ring, one system call
// for all that was submitted in a turn and the wait; what the ring does no better than a thread
// (page cache writes, names, syncs) on the worker pool.
#pragma once

#include <memory>

#include "io/backend.hpp"

namespace tidemark {

struct UringOptions {
  unsigned workers_max = 64;
  // For at most so long the thread looks for its next event before it sleeps, while events follow one
  // another that closely (io/posix/busy_wait.hpp).  Never where there is one processor only.  What KVM
  // itself spends before it lets a processor sleep (halt_poll_ns).
  Duration busy_wait_max = std::chrono::microseconds(200);
};

// Fails where the kernel or a sandbox refuses io_uring: use the threads backend there.  May be made
// on another thread than the one that will run it.
Result<std::unique_ptr<IoBackend>> make_uring_backend(UringOptions options = {});

}  // namespace tidemark
