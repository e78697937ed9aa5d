// The reactor's backend, as the machine and the user want it.
#pragma once

#include <memory>
#include <string_view>

#include "io/backend.hpp"

namespace tidemark {

// `aio`: "io_uring", "threads", or "" for io_uring where the kernel grants it and threads elsewhere.
// At most so many worker threads.
Result<std::unique_ptr<IoBackend>> make_backend(std::string_view aio, unsigned workers_max = 64);

}  // namespace tidemark
