#include "app/daemon/background.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

namespace tidemark {
namespace {

[[noreturn]] void wait_for_daemon(int ready_fd) {
  char byte;
  ssize_t n;
  do n = ::read(ready_fd, &byte, 1);
  while (n < 0 && errno == EINTR);
  std::_Exit(n == 1 ? 0 : 1);            // the daemon has said what is wrong
}

}  // namespace

Result<Background> Background::enter() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return Error::from_errno(errno, "--daemonize");
  const pid_t child = ::fork();
  if (child < 0) return Error::from_errno(errno, "--daemonize");
  if (child > 0) {
    ::close(ends[1]);
    wait_for_daemon(ends[0]);
  }
  ::close(ends[0]);
  ::setsid();
  Background background;
  background.ready_fd_ = ends[1];
  return background;
}

Background::~Background() {
  if (ready_fd_ >= 0) ::close(ready_fd_);
}

void Background::ready() noexcept {
  if (ready_fd_ < 0) return;
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(null, fd);
  ::close(null);
  (void)!::write(ready_fd_, "", 1);
  ::close(std::exchange(ready_fd_, -1));
}

}  // namespace tidemark
