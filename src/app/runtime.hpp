// The reactor's backend, as the machine and the user want it.
#pragma once

#include <memory>
#include <string_view>

#include "control/homes.hpp"

namespace tidemark {

// `aio`: "io_uring", "threads", or "" for io_uring where the kernel grants it and threads elsewhere.
Result<std::unique_ptr<IoBackend>> make_backend(std::string_view aio, const ThreadOptions& options = {});

}  // namespace tidemark
