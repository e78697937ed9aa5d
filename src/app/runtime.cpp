#include "app/runtime.hpp"

#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"

namespace tidemark {

Result<std::unique_ptr<IoBackend>> make_backend(std::string_view aio, const ThreadOptions& options) {
  if (aio == "threads") return make_threads_backend(options.workers_max);
  if (!aio.empty() && aio != "io_uring")
    return Error(Errc::invalid_argument, "aio '" + std::string(aio) + "' is unknown; use io_uring or threads");
  UringOptions given;
  given.workers_max = options.workers_max;
  if (options.busy_wait_max) given.busy_wait_max = *options.busy_wait_max;
  auto uring = make_uring_backend(given);
  if (uring || aio == "io_uring") return uring;
  return make_threads_backend(options.workers_max);
}

}  // namespace tidemark
