#include "io/posix/host.hpp"

#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace tidemark::posix {
namespace {

std::int64_t clock_ns(clockid_t id) noexcept {
  timespec t;
  TM_ASSERT(::clock_gettime(id, &t) == 0);
  return t.tv_sec * std::int64_t{1'000'000'000} + t.tv_nsec;
}

}  // namespace

Instant monotonic_now() noexcept { return Instant(clock_ns(CLOCK_MONOTONIC)); }

std::int64_t wall_clock_ns() noexcept { return clock_ns(CLOCK_REALTIME); }

std::uint64_t random_word() noexcept {
  std::uint64_t word;
  while (::getrandom(&word, sizeof word, 0) != sizeof word) TM_ASSERT(errno == EINTR);
  return word;
}

Result<int> Wakeup::open() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return Error::from_errno(errno, "create an eventfd");
  return fd;
}

Wakeup::~Wakeup() { ::close(fd_); }

void Wakeup::notify() noexcept {
  if (state_.exchange(State::notified, std::memory_order_seq_cst) != State::asleep) return;
  const int saved = errno;                       // a signal handler leaves it as it was
  const std::uint64_t one = 1;
  (void)!::write(fd_, &one, sizeof one);
  errno = saved;
}

bool Wakeup::begin_sleep() noexcept {
  State expected = State::awake;
  return state_.compare_exchange_strong(expected, State::asleep, std::memory_order_seq_cst);
}

void Wakeup::drain() noexcept {
  std::uint64_t count;
  (void)!::read(fd_, &count, sizeof count);
}

}  // namespace tidemark::posix
