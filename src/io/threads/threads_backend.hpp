// The backend without io_uring: system calls on a pool of threads, sockets by epoll, so that an
// idle connection costs no thread.
#pragma once

#include <memory>

#include "io/backend.hpp"

namespace tidemark {

// Fails when the system gives no descriptors.
Result<std::unique_ptr<IoBackend>> make_threads_backend(unsigned workers_max = 64);

}  // namespace tidemark
