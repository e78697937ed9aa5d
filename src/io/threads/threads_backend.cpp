#include "io/threads/threads_backend.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "io/posix/inline_io.hpp"
#include "io/posix/perform.hpp"
#include "io/posix/worker_pool.hpp"
#include "io/tunable.hpp"

namespace tidemark {
namespace {

using posix::descriptor;

// The operations that wait for one direction of a socket, in order.
struct Waiting {
  IoOp* first = nullptr;
  IoOp* last = nullptr;

  void push(IoOp& op) {
    op.next = nullptr;
    (last ? last->next : first) = &op;
    last = &op;
  }
  IoOp& pop() {
    IoOp& op = *first;
    first = op.next;
    if (!first) last = nullptr;
    return op;
  }
  bool remove(IoOp& op) {
    Waiting kept;
    bool found = false;
    while (first) {
      IoOp& at = pop();
      if (&at == &op) found = true;
      else kept.push(at);
    }
    *this = kept;
    return found;
  }
};

// What epoll watches a descriptor for.  One shot: it is armed only while an operation waits, so a
// descriptor that was closed and comes back as another file is never taken for the old one.
struct Watch {
  Waiting in, out;
  std::uint32_t armed = 0;
  std::uint32_t wanted() const {
    return (in.first ? EPOLLIN | EPOLLRDHUP : 0u) | (out.first ? std::uint32_t{EPOLLOUT} : 0u);
  }
};

class ThreadsBackend final : public IoBackend, public TunableBackend {
 public:
  ThreadsBackend(int epoll, int event, unsigned workers_max)
      : epoll_(epoll), wakeup_(event), pool_(wakeup_, workers_max) {
    epoll_event wake = {EPOLLIN, {}};
    wake.data.fd = event;
    TM_ASSERT(::epoll_ctl(epoll_, EPOLL_CTL_ADD, event, &wake) == 0);
  }
  ~ThreadsBackend() override { ::close(epoll_); }

  std::string_view name() const noexcept override { return "threads"; }
  Instant now() noexcept override { return posix::monotonic_now(); }
  std::int64_t wall_clock_ns() noexcept override { return posix::wall_clock_ns(); }
  std::uint64_t random() noexcept override { return posix::random_word(); }
  bool try_now(IoOp& op) noexcept override { return inline_.try_now(op); }
  void submit(IoOp& op) override;
  void cancel(IoOp& op) override;
  void wait(Instant deadline, std::vector<IoOp*>& completed) override;
  void wake() noexcept override { wakeup_.notify(); }
  std::uint64_t forget(Handle handle) noexcept override { return inline_.forget(handle); }
  void learn(Handle handle, std::uint64_t known) noexcept override { inline_.learn(handle, known); }
  void set_workers_max(unsigned workers_max) override { pool_.set_workers_max(workers_max); }
  void set_busy_wait_max(Duration) override {}

 private:
  static bool is_socket_wait(const IoOp& op) {
    return op.kind == IoOp::Kind::recv || op.kind == IoOp::Kind::send ||
           op.kind == IoOp::Kind::accept;
  }
  Watch& watch(Handle handle);
  static Waiting& direction(Watch& watch, const IoOp& op) {
    return op.kind == IoOp::Kind::send ? watch.out : watch.in;
  }
  void finish(IoOp& op, std::int64_t result) {
    op.result = result;
    done_.push_back(&op);
  }
  void wait_for_socket(IoOp& op);
  void arm(int fd, Watch& watch);
  void fail_all(Watch& watch, std::int64_t error);
  void run(Waiting& waiting);
  void sleep(Instant deadline);
  int poll_events(std::span<epoll_event> events, const timespec* timeout) noexcept;
  void handle(const epoll_event& event);

  const int epoll_;
  posix::Wakeup wakeup_;
  posix::WorkerPool pool_;
  posix::InlineIo inline_;
  std::vector<Watch> watches_;                   // by descriptor
  std::uint64_t watching_ = 0;                   // operations that wait for sockets
  std::vector<IoOp*> done_;
  bool nanoseconds_ = true;                      // epoll_pwait2 works
};

// One try without waiting; -EAGAIN when it would wait.
std::int64_t attempt(IoOp& op) noexcept {
  if (op.kind == IoOp::Kind::accept) return posix::perform_blocking(op);   // made non-blocking
  return posix::transfer(op, MSG_DONTWAIT);
}

Watch& ThreadsBackend::watch(Handle handle) {
  const auto at = static_cast<std::size_t>(descriptor(handle));
  if (at >= watches_.size()) watches_.resize(at + 1);
  return watches_[at];
}

void ThreadsBackend::submit(IoOp& op) {
  if (is_socket_wait(op)) return wait_for_socket(op);
  if (op.kind == IoOp::Kind::close) {
    const Watch& closing = watch(op.handle);
    TM_ASSERT(!closing.in.first && !closing.out.first);
  }
  pool_.submit(op, inline_.takes_turns(op));
}

void ThreadsBackend::wait_for_socket(IoOp& op) {
  if (descriptor(op.handle) < 0) return finish(op, -EBADF);
  Watch& watched = watch(op.handle);
  Waiting& waiting = direction(watched, op);
  if (!waiting.first) {
    const int fd = descriptor(op.handle);
    if (op.kind == IoOp::Kind::accept && !watched.armed)
      ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
    const bool tried = op.backend_data[0] == posix::would_wait;
    const std::int64_t result = tried ? -EAGAIN : attempt(op);
    if (result != -EAGAIN) return finish(op, result);
  }
  waiting.push(op);
  ++watching_;
  arm(descriptor(op.handle), watched);
}

void ThreadsBackend::arm(int fd, Watch& watched) {
  const std::uint32_t wanted = watched.wanted();
  if (wanted == 0) watched.armed = 0;            // what is still armed finds nobody waiting
  if ((wanted & ~watched.armed) == 0) return;
  watched.armed = wanted;
  epoll_event event = {wanted | EPOLLONESHOT, {}};
  event.data.fd = fd;
  if (::epoll_ctl(epoll_, EPOLL_CTL_MOD, fd, &event) == 0) return;
  if (errno == ENOENT && ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) == 0) return;
  fail_all(watched, -errno);
}

void ThreadsBackend::fail_all(Watch& watched, std::int64_t error) {
  for (Waiting* waiting : {&watched.in, &watched.out})
    while (waiting->first) {
      --watching_;
      finish(waiting->pop(), error);
    }
  watched.armed = 0;
}

void ThreadsBackend::run(Waiting& waiting) {
  while (waiting.first) {
    const std::int64_t result = attempt(*waiting.first);
    if (result == -EAGAIN) return;
    --watching_;
    finish(waiting.pop(), result);
  }
}

void ThreadsBackend::cancel(IoOp& op) {
  if (!is_socket_wait(op)) {
    if (pool_.cancel(op)) finish(op, -ECANCELED);
    return;
  }
  Watch& watched = watch(op.handle);
  if (!direction(watched, op).remove(op)) return;         // it is done already
  --watching_;
  finish(op, -ECANCELED);
  arm(descriptor(op.handle), watched);
}

void ThreadsBackend::handle(const epoll_event& event) {
  if (event.data.fd == wakeup_.fd()) return wakeup_.drain();
  Watch& watched = watches_[static_cast<std::size_t>(event.data.fd)];
  watched.armed = 0;
  const bool broken = event.events & (EPOLLERR | EPOLLHUP);
  if (broken || (event.events & (EPOLLIN | EPOLLRDHUP))) run(watched.in);
  if (broken || (event.events & EPOLLOUT)) run(watched.out);
  arm(event.data.fd, watched);
}

int ThreadsBackend::poll_events(std::span<epoll_event> events, const timespec* timeout) noexcept {
  const auto room = static_cast<int>(events.size());
  if (nanoseconds_) {
    const int n = ::epoll_pwait2(epoll_, events.data(), room, timeout, nullptr);
    if (n >= 0 || errno == EINTR) return n;
    nanoseconds_ = false;                        // an old kernel, or a sandbox
  }
  constexpr std::int64_t longest_ms = 3'600'000;
  std::int64_t ms = -1;
  if (timeout) ms = timeout->tv_sec * 1000 + (timeout->tv_nsec + 999'999) / 1'000'000;
  ms = std::min(ms, longest_ms);
  return ::epoll_wait(epoll_, events.data(), room, static_cast<int>(ms));
}

void ThreadsBackend::sleep(Instant deadline) {
  timespec limit = {};
  timespec* timeout = &limit;
  bool poll = !done_.empty() || deadline == Instant::min();
  if (!poll && deadline == no_deadline) {
    timeout = nullptr;
  } else if (!poll) {
    const Instant left = deadline - now();
    poll = left <= Instant::zero();
    if (!poll) limit = {left.count() / 1'000'000'000, left.count() % 1'000'000'000};
  }
  const bool asleep = !poll && wakeup_.begin_sleep();
  if (!asleep) limit = {}, timeout = &limit;
  if (asleep || watching_ != 0) {
    std::array<epoll_event, 64> events;
    const int n = poll_events(events, timeout);
    for (int i = 0; i < n; ++i) handle(events[static_cast<std::size_t>(i)]);
  }
}

void ThreadsBackend::wait(Instant deadline, std::vector<IoOp*>& completed) {
  pool_.flush();
  sleep(deadline);
  wakeup_.end_sleep();
  if (!pool_.idle()) pool_.take(done_);
  inline_.has_slept();
  for (const IoOp* op : done_) inline_.completed(*op);
  completed.insert(completed.end(), done_.begin(), done_.end());
  done_.clear();
}

}  // namespace

Result<std::unique_ptr<IoBackend>> make_threads_backend(unsigned workers_max) {
  const Result<int> event = posix::Wakeup::open();
  if (!event) return event.error();
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll < 0) {
    const Error error = Error::from_errno(errno, "create an epoll set");
    ::close(*event);
    return error;
  }
  return std::unique_ptr<IoBackend>(std::make_unique<ThreadsBackend>(epoll, *event, workers_max));
}

}  // namespace tidemark
