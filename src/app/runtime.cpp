#include "app/runtime.hpp"

#include "base/json.hpp"
#include "base/utf8.hpp"
#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace tidemark {

void open_standard_streams() noexcept {
  for (int fd = 0; fd <= 2; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && errno == EBADF) (void)::open("/dev/null", O_RDWR);     // takes the lowest free number
}

void allow_many_files() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

void complain(std::string_view program, const Error& error, bool json) {
  std::string line = std::string(program) + ": " + printable(error.message());
  if (json) {
    Json told = Json::object({{"kind", to_string(error.code())}, {"message", error.message()}});
    line = to_text(Json::object({{"error", std::move(told)}}));
  }
  line += '\n';
  (void)std::fwrite(line.data(), 1, line.size(), stderr);
}

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
