// The backend over Linux io_uring: reads, direct writes and sockets on the ring, one system call
// for all that was submitted in a turn and the wait; what the ring does no better than a thread
// (page cache writes, names, syncs) on the worker pool.
#pragma once

#include <memory>

#include "io/backend.hpp"

namespace tidemark {

// Fails where the kernel or a sandbox refuses io_uring: use the threads backend there.  May be made
// on another thread than the one that will run it.
Result<std::unique_ptr<IoBackend>> make_uring_backend(unsigned workers_max = 64);

}  // namespace tidemark
