#include "io/posix/signals.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace tidemark {
namespace {

// A handler can reach only what is global: the writing end of the watch's socket pair.
volatile sig_atomic_t writing_end = -1;

void on_signal(int number) {
  const int saved = errno;
  const auto byte = static_cast<unsigned char>(number);
  // Full means that signals wait to be read already.
  (void)!::send(writing_end, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  errno = saved;
}

}  // namespace

Result<SignalWatch> SignalWatch::create(Reactor& reactor, std::initializer_list<int> signals) {
  TM_ASSERT(writing_end == -1);
  ::signal(SIGXFSZ, SIG_IGN);            // a write beyond RLIMIT_FSIZE fails, and says why
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return Error::from_errno(errno, "watching signals");
  writing_end = ends[1];
  for (int number : signals) {
    struct sigaction action {};
    // nohup(1): who has started us wants us to outlive the terminal.
    if (number == SIGHUP && ::sigaction(number, nullptr, &action) == 0 && action.sa_handler == SIG_IGN) continue;
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    ::sigaction(number, &action, nullptr);
  }
  return SignalWatch(reactor, static_cast<Handle>(ends[0]), signals);
}

Task<int> SignalWatch::next(CancelToken token) {
  std::byte number{};
  const MutableBytes into(&number, 1);
  co_await socket_.recv_all(into, token);
  co_return std::to_integer<int>(number);
}

Task<> SignalWatch::close() {
  for (int number : signals_) {
    struct sigaction action {};
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler == on_signal) ::signal(number, SIG_DFL);
  }
  ::close(std::exchange(writing_end, -1));
  co_await socket_.close();
}

}  // namespace tidemark
