#include "app/runtime.hpp"

#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"

namespace tidemark {

Result<std::unique_ptr<IoBackend>> make_backend(std::string_view aio, unsigned workers_max) {
  if (aio == "threads") return make_threads_backend(workers_max);
  if (!aio.empty() && aio != "io_uring")
    return Error(Errc::invalid_argument, "aio '" + std::string(aio) + "' is unknown; use io_uring or threads");
  auto uring = make_uring_backend(workers_max);
  if (uring || aio == "io_uring") return uring;
  return make_threads_backend(workers_max);
}

}  // namespace tidemark
