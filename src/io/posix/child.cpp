#include "io/posix/child.hpp"

#include <csignal>
#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/posix/calls.hpp"

namespace tidemark {
namespace {

constexpr Duration poll_interval = std::chrono::milliseconds(10);
constexpr int kept_as = 9;

void close_fd(int& fd) noexcept {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

// What posix_spawn is told, freed however that ends.
struct Setup {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  Setup() noexcept {
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&attributes);
  }
  Setup(const Setup&) = delete;
  ~Setup() {
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
  }
};

// Children that close all files they may have would take long with as many as this program may.
class UsualFileLimit {
 public:
  UsualFileLimit() noexcept {
    constexpr rlim_t usual = 1024;                       // the kernel's INR_OPEN_CUR
    if (::getrlimit(RLIMIT_NOFILE, &own_) != 0 || own_.rlim_cur <= usual) return;
    rlimit lower = own_;
    lower.rlim_cur = usual;
    lowered_ = ::setrlimit(RLIMIT_NOFILE, &lower) == 0;
  }
  UsualFileLimit(const UsualFileLimit&) = delete;
  ~UsualFileLimit() {
    if (lowered_) (void)::setrlimit(RLIMIT_NOFILE, &own_);
  }

 private:
  rlimit own_{};
  bool lowered_ = false;
};

}  // namespace

Result<Pipe> Pipe::create() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return Error::from_errno(errno, "make a pipe");
  return Pipe(ends[0], ends[1]);
}

Pipe::Pipe(Pipe&& other) noexcept : reading_(std::exchange(other.reading_, -1)), writing_(std::exchange(other.writing_, -1)) {}

Pipe::~Pipe() {
  close_fd(reading_);
  close_fd(writing_);
}

void Pipe::close_reading() noexcept { close_fd(reading_); }

void Pipe::tell() noexcept {
  // Who was to read may have been killed: no reason to end.
  if (writing_ >= 0) (void)posix::retried([&] { return ::send(writing_, "\n", 1, MSG_NOSIGNAL); });
  close_fd(writing_);
}

Result<Child> Child::start(std::vector<std::string> words, Options options) {
  Setup setup;
  if (options.input >= 0) ::posix_spawn_file_actions_adddup2(&setup.files, options.input, STDIN_FILENO);
  else ::posix_spawn_file_actions_addopen(&setup.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(&setup.files, STDERR_FILENO, STDOUT_FILENO);
  if (options.kept >= 0) ::posix_spawn_file_actions_adddup2(&setup.files, options.kept, kept_as);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  ::posix_spawnattr_setsigmask(&setup.attributes, &none);
  ::posix_spawnattr_setsigdefault(&setup.attributes, &all);
  ::posix_spawnattr_setflags(&setup.attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::signal(SIGCHLD, SIG_DFL);            // where a program was started with it ignored, children end without a status
  pid_t pid = 0;
  const UsualFileLimit limit;
  const int failed = ::posix_spawnp(&pid, arguments[0], &setup.files, &setup.attributes, arguments.data(), environ);
  if (failed != 0) return Error::from_errno(failed, "run '" + words[0] + "'");
  return Child(pid);
}

Task<int> Child::wait(Reactor& reactor, CancelToken token) {
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
    if (ended < 0) co_await Error::from_errno(errno, "wait for a child");
    if (ended == pid_) co_return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    co_await reactor.sleep(poll_interval, token);
  }
}

void Child::kill() noexcept { ::kill(-pid_, SIGKILL); }

}  // namespace tidemark
