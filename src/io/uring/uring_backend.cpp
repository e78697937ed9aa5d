#include "io/uring/uring_backend.hpp"

#include <liburing.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <thread>
#include <utility>

#include "io/posix/busy_wait.hpp"
#include "io/posix/inline_io.hpp"
#include "io/posix/perform.hpp"
#include "io/posix/worker_pool.hpp"
#include "io/tunable.hpp"

namespace tidemark {
namespace {

using posix::descriptor;

constexpr unsigned queue_entries = 256;
constexpr unsigned completion_entries = 4096;
constexpr std::size_t transfer_max = std::size_t{1} << 30;      // an sqe's length has 32 bits
constexpr std::size_t pieces_max = 1024;                        // IOV_MAX
constexpr std::size_t arena_pieces = 4 * pieces_max;

// Linux ends direct writes on a thread of its own, one after another, usually on the processor that
// this one runs on.  To be woken for each would be two switches for each; to look out without sleeping
// would keep that thread from its work.  So where many writes are with devices, the thread sleeps until
// half as many events have come, or some have and this time has passed.
constexpr unsigned many_writes = 12;
constexpr unsigned batch_wait_us = 60;
constexpr unsigned feature_min_timeout = 1u << 15;   // Linux 6.12; liburing 2.3 does not know it

// io_uring_getevents_arg as of Linux 6.12.
struct WaitArgument {
  std::uint64_t sigmask = 0;
  std::uint32_t sigmask_size = _NSIG / 8;
  std::uint32_t min_wait_us = 0;
  std::uint64_t timeout = 0;
};
static_assert(sizeof(WaitArgument) == sizeof(io_uring_getevents_arg));

// Completions that are no IoOp's own: of the watch for wake-ups, and of the cancelling of the one whose address this is besides.
constexpr std::uint64_t wake_tag = 1;
constexpr std::uint64_t cancel_tag = 2;
static_assert(alignof(IoOp) > (wake_tag | cancel_tag));

// The kernel's refusal to cancel counts for the moment: an operation that one of its threads is just at may be waiting for its
// peer a moment later.
constexpr Duration cancel_pause = std::chrono::milliseconds(1);

Duration worth_waiting(Duration longest) { return std::thread::hardware_concurrency() > 1 ? longest : Duration::zero(); }

// In backend_data[1] of an operation that is with the ring, not with the workers; that is to be cancelled there; that the ring is
// done with, though nobody may have heard of it yet.
constexpr std::uint64_t ring_mark = 2, cancelled_mark = 3, completed_mark = 4;

// What the queue entries point to until the kernel has taken them.
struct Arena {
  std::array<iovec, arena_pieces> pieces;
  std::array<msghdr, queue_entries> messages;
  std::size_t pieces_used = 0, messages_used = 0;

  bool has_room() const {
    return pieces.size() - pieces_used >= pieces_max && messages_used < messages.size();
  }
  void clear() { pieces_used = messages_used = 0; }
  std::span<iovec> store(const Buffers& buffers) {
    const std::span<iovec> free(&pieces[pieces_used], pieces_max);
    const std::size_t count = buffers.gather(free);
    pieces_used += count;
    return free.first(count);
  }
};

std::int64_t check_features(io_uring& ring, unsigned features) {
  constexpr unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
                              IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG |
                              IORING_FEAT_RSRC_TAGS;      // Linux 5.13: multishot polls
  if ((features & needed) == needed) return 0;
  ::io_uring_queue_exit(&ring);
  return -ENOSYS;
}

// A ring with the newest features that the kernel grants (`modern`: Linux 6.1), or -errno.  A
// modern one is made disabled, so that another thread than its maker can become its one submitter.
std::int64_t open_ring(io_uring& ring, bool& modern) {
  constexpr unsigned newest = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                              IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
                              IORING_SETUP_R_DISABLED;
  std::int64_t result = -EINVAL;
  for (const unsigned flags : {newest, 0u}) {
    io_uring_params params = {};
    params.flags = flags | IORING_SETUP_CQSIZE;
    params.cq_entries = completion_entries;
    result = ::io_uring_queue_init_params(queue_entries, &ring, &params);
    modern = flags == newest;
    if (result != -EINVAL) return result < 0 ? result : check_features(ring, params.features);
  }
  return result;
}

// Debian's liburing 2.3 declares a function for it and does not export it.
void enable(const io_uring& ring) {
  const auto opcode = IORING_REGISTER_ENABLE_RINGS;
  TM_ASSERT(::syscall(__NR_io_uring_register, ring.ring_fd, opcode, nullptr, 0) == 0);
}

// The ring may say no where a thread that can wait, or do without a flag, would succeed: also that it was cancelled, which nobody does
// to these, when the ring gets no thread for it.
bool must_be_repeated(const IoOp& op, std::int64_t result) {
  const bool on_file = op.kind == IoOp::Kind::read || op.kind == IoOp::Kind::write;
  return on_file && (result == -EAGAIN || result == -EINTR || result == -EOPNOTSUPP || result == -ECANCELED);
}

class UringBackend final : public IoBackend, public TunableBackend {
 public:
  // Owns the ring and the eventfd.
  UringBackend(const io_uring& ring, bool modern, int event, const UringOptions& options)
      : ring_(ring), modern_(modern), wakeup_(event), pool_(wakeup_, options.workers_max),
        busy_wait_(worth_waiting(options.busy_wait_max)) {}
  ~UringBackend() override { ::io_uring_queue_exit(&ring_); }

  std::string_view name() const noexcept override { return "io_uring"; }
  Instant now() noexcept override { return posix::monotonic_now(); }
  std::int64_t wall_clock_ns() noexcept override { return posix::wall_clock_ns(); }
  std::uint64_t random() noexcept override { return posix::random_word(); }
  bool try_now(IoOp& op) noexcept override { return !goes_aside(op) && inline_.try_now(op); }
  void submit(IoOp& op) override;
  void cancel(IoOp& op) override;
  void wait(Instant deadline, std::vector<IoOp*>& completed) override;
  void wake() noexcept override { wakeup_.notify(); }
  std::uint64_t forget(Handle handle) noexcept override { return inline_.forget(handle); }
  void learn(Handle handle, std::uint64_t known) noexcept override { inline_.learn(handle, known); }
  void set_workers_max(unsigned workers_max) override { pool_.set_workers_max(workers_max); }
  void set_busy_wait_max(Duration longest) override { busy_wait_.set_longest(worth_waiting(longest)); }

 private:
  void start();
  io_uring_sqe& entry();                         // with room in the arena
  void submit_entries(bool with_events);
  void submit_to_ring(IoOp& op);
  void fill(io_uring_sqe& sqe, IoOp& op);
  void fill_transfer(io_uring_sqe& sqe, const IoOp& op);
  void fill_message(io_uring_sqe& sqe, const IoOp& op);
  void watch_wakeups();

  bool events_pending() const;
  bool look_for_events(Instant until);
  void wait_for_event(Instant deadline);
  void sleep(Instant deadline);
  void sleep_for_many(Instant deadline);
  // The ring tells one of its own threads to do it.
  bool goes_aside(const IoOp& op) const noexcept { return op.aside && processors_ > 1; }
  void submit_cancel(IoOp& op);
  // What the kernel has refused is asked for again, where that is due.
  void ask_again();
  Instant next_asking() const noexcept;
  void cancel_answered(std::uint64_t address, std::int32_t result);
  void reap();
  void complete(const io_uring_cqe& cqe);
  bool wants_thread(const IoOp& op) const;
  void finish(IoOp& op, std::int64_t result) {
    op.result = result;
    done_.push_back(&op);
  }

  io_uring ring_;
  const bool modern_;                            // completions only when asked for, poll first
  const bool batches_ = modern_ && (ring_.features & feature_min_timeout) != 0;
  const unsigned processors_ = std::thread::hardware_concurrency();
  unsigned writes_ = 0;                          // of files, with the ring
  bool started_ = false;
  bool wakeups_watched_ = false;
  posix::Wakeup wakeup_;
  posix::WorkerPool pool_;
  posix::InlineIo inline_;
  posix::BusyWait busy_wait_;
  const std::unique_ptr<Arena> arena_ = std::make_unique<Arena>();
  std::vector<IoOp*> done_;
  std::vector<IoOp*> refused_aside_;             // sends that the ring had no thread for
  std::vector<IoOp*> cancelled_;                 // with the ring, and not completed
  std::vector<IoOp*> refused_;                   // of those: asked for again at
  Instant ask_again_at_ = no_deadline;
};

// The ring's one submitter is the thread that comes here first.
void UringBackend::start() {
  started_ = true;
  if (modern_) enable(ring_);
}

void UringBackend::watch_wakeups() {
  wakeups_watched_ = true;
  io_uring_sqe& sqe = entry();
  ::io_uring_prep_poll_multishot(&sqe, wakeup_.fd(), POLLIN);
  sqe.user_data = wake_tag;
}

io_uring_sqe& UringBackend::entry() {
  io_uring_sqe* sqe = arena_->has_room() ? ::io_uring_get_sqe(&ring_) : nullptr;
  while (!sqe) {
    const bool with_events = true;               // the kernel may want its completions taken first
    submit_entries(with_events);
    reap();
    if (arena_->has_room()) sqe = ::io_uring_get_sqe(&ring_);
  }
  return *sqe;
}

void UringBackend::submit_entries(bool with_events) {
  if (with_events) (void)::io_uring_submit_and_get_events(&ring_);
  else (void)::io_uring_submit(&ring_);
  if (::io_uring_sq_ready(&ring_) == 0) arena_->clear();
}

// On a thread: what sleeps in the kernel for other things than a device or a peer.
bool UringBackend::wants_thread(const IoOp& op) const {
  switch (op.kind) {
    case IoOp::Kind::recv:
    case IoOp::Kind::send:
    case IoOp::Kind::accept: return false;
    case IoOp::Kind::read: return !posix::offset_is_sane(op);
    case IoOp::Kind::write: return !posix::offset_is_sane(op) || inline_.is_buffered(op.handle);
    case IoOp::Kind::close: return inline_.is_file(op.handle);
    default: return true;
  }
}

void UringBackend::submit(IoOp& op) {
  if (wants_thread(op)) return pool_.submit(op, inline_.takes_turns(op));
  if (!started_) start();
  submit_to_ring(op);
}

void UringBackend::submit_to_ring(IoOp& op) {
  io_uring_sqe& sqe = entry();
  fill(sqe, op);
  sqe.user_data = reinterpret_cast<std::uint64_t>(&op);
  op.backend_data[1] = ring_mark;
  if (op.kind == IoOp::Kind::write) ++writes_;
}

void UringBackend::fill(io_uring_sqe& sqe, IoOp& op) {
  switch (op.kind) {
    case IoOp::Kind::read:
    case IoOp::Kind::write: return fill_transfer(sqe, op);
    case IoOp::Kind::recv:
    case IoOp::Kind::send: return fill_message(sqe, op);
    case IoOp::Kind::accept:
      return ::io_uring_prep_accept(&sqe, descriptor(op.handle), nullptr, nullptr, SOCK_CLOEXEC);
    default: return ::io_uring_prep_close(&sqe, descriptor(op.handle));
  }
}

void UringBackend::fill_transfer(io_uring_sqe& sqe, const IoOp& op) {
  const int fd = descriptor(op.handle);
  const bool reading = op.kind == IoOp::Kind::read;
  if (op.buffers.contiguous()) {
    const MutableBytes bytes = op.buffers.as_contiguous();
    const auto size = static_cast<unsigned>(std::min(bytes.size(), transfer_max));
    const auto prepare = reading ? IORING_OP_READ : IORING_OP_WRITE;
    ::io_uring_prep_rw(prepare, &sqe, fd, bytes.data(), size, op.offset);
  } else {
    const std::span<iovec> pieces = arena_->store(op.buffers);
    const auto prepare = reading ? IORING_OP_READV : IORING_OP_WRITEV;
    ::io_uring_prep_rw(prepare, &sqe, fd, pieces.data(), static_cast<unsigned>(pieces.size()),
                       op.offset);
  }
  if (op.durable) sqe.rw_flags = RWF_DSYNC;
}

void UringBackend::fill_message(io_uring_sqe& sqe, const IoOp& op) {
  const int fd = descriptor(op.handle);
  const bool receiving = op.kind == IoOp::Kind::recv;
  const int flags = receiving ? 0 : MSG_NOSIGNAL | MSG_WAITALL;   // the ring goes on by itself
  if (op.buffers.contiguous()) {
    const MutableBytes bytes = op.buffers.as_contiguous();
    const std::size_t size = std::min(bytes.size(), transfer_max);
    if (receiving) ::io_uring_prep_recv(&sqe, fd, bytes.data(), size, flags);
    else ::io_uring_prep_send(&sqe, fd, bytes.data(), size, flags);
  } else {
    const std::span<iovec> pieces = arena_->store(op.buffers);
    msghdr& message = arena_->messages[arena_->messages_used++];
    message = {};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    if (receiving) ::io_uring_prep_recvmsg(&sqe, fd, &message, static_cast<unsigned>(flags));
    else ::io_uring_prep_sendmsg(&sqe, fd, &message, static_cast<unsigned>(flags));
  }
  if (goes_aside(op)) sqe.flags |= IOSQE_ASYNC;
  if (modern_ && op.backend_data[0] == posix::would_wait) sqe.ioprio |= IORING_RECVSEND_POLL_FIRST;
}

void UringBackend::cancel(IoOp& op) {
  if (op.backend_data[1] == cancelled_mark || op.backend_data[1] == completed_mark) return;
  const bool with_pool = op.backend_data[1] != ring_mark;
  if (with_pool ? pool_.cancel(op) : std::erase(refused_aside_, &op) != 0) return finish(op, -ECANCELED);
  if (with_pool) return;
  op.backend_data[1] = cancelled_mark;
  cancelled_.push_back(&op);
  submit_cancel(op);
}

void UringBackend::submit_cancel(IoOp& op) {
  io_uring_sqe& sqe = entry();
  const int first_match = 0;
  ::io_uring_prep_cancel(&sqe, &op, first_match);
  sqe.user_data = reinterpret_cast<std::uint64_t>(&op) | cancel_tag;
}

// It may have completed meanwhile, and another one be at its address.
void UringBackend::cancel_answered(std::uint64_t address, std::int32_t result) {
  if (result >= 0) return;
  IoOp* op = reinterpret_cast<IoOp*>(address);
  const auto is_it = [op](const IoOp* other) { return other == op; };
  if (std::none_of(cancelled_.begin(), cancelled_.end(), is_it) || std::any_of(refused_.begin(), refused_.end(), is_it)) return;
  if (refused_.empty()) ask_again_at_ = now() + cancel_pause;
  refused_.push_back(op);
}

void UringBackend::ask_again() {
  for (IoOp* op : std::exchange(refused_aside_, {})) submit_to_ring(*op);
  if (refused_.empty() || now() < ask_again_at_) return;
  for (IoOp* op : std::exchange(refused_, {})) submit_cancel(*op);
}

// Some may have been refused while others were asked for.
Instant UringBackend::next_asking() const noexcept {
  if (!refused_aside_.empty()) return Instant::min();
  return refused_.empty() ? no_deadline : ask_again_at_;
}

// With deferred task work, completions come only when the kernel is asked; it says when to ask.
bool UringBackend::events_pending() const {
  constexpr unsigned reasons = IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW;
  return (__atomic_load_n(ring_.sq.kflags, __ATOMIC_RELAXED) & reasons) != 0;
}

// True when there is something to take.
bool UringBackend::look_for_events(Instant until) {
  if (::io_uring_sq_ready(&ring_) != 0) submit_entries(events_pending());
  while (!events_pending() && ::io_uring_cq_ready(&ring_) == 0 && !wakeup_.notified())
    if (now() >= until) return false;
  if (events_pending()) submit_entries(true);
  return true;
}

void UringBackend::wait_for_event(Instant deadline) {
  const Instant from = now();
  const bool many = batches_ && writes_ >= many_writes;
  const bool look = !many && !pool_.wants_all_processors() && busy_wait_.window() != Duration::zero();
  if (look && look_for_events(std::min(from + busy_wait_.window(), deadline))) return busy_wait_.found();
  if (!wakeup_.begin_sleep()) return;
  if (many) sleep_for_many(deadline);
  else sleep(deadline);
  busy_wait_.slept(now() - from, look);
}

// liburing knows no such wait yet; what it has not handed to the kernel is handed over first.
void UringBackend::sleep_for_many(Instant deadline) {
  if (::io_uring_sq_ready(&ring_) != 0) submit_entries(false);
  __kernel_timespec limit = {};
  WaitArgument argument;
  argument.min_wait_us = batch_wait_us;
  if (deadline != no_deadline) {
    const Instant left = std::max(deadline - now(), Instant::zero());
    limit = {left.count() / 1'000'000'000, left.count() % 1'000'000'000};
    argument.timeout = reinterpret_cast<std::uint64_t>(&limit);
  }
  constexpr unsigned flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
  (void)::syscall(__NR_io_uring_enter, ring_.ring_fd, 0, writes_ / 2, flags, &argument, sizeof argument);
}

void UringBackend::sleep(Instant deadline) {
  io_uring_cqe* first;
  if (deadline == no_deadline) {
    (void)::io_uring_submit_and_wait(&ring_, 1);
  } else {
    const Instant left = std::max(deadline - now(), Instant::zero());
    __kernel_timespec limit = {left.count() / 1'000'000'000, left.count() % 1'000'000'000};
    (void)::io_uring_submit_and_wait_timeout(&ring_, &first, 1, &limit, nullptr);
  }
  if (::io_uring_sq_ready(&ring_) == 0) arena_->clear();
}

void UringBackend::wait(Instant deadline, std::vector<IoOp*>& completed) {
  if (!started_) start();
  reap();
  if (!wakeups_watched_) watch_wakeups();        // after reap(), which may find that the watch has ended
  ask_again();
  pool_.flush();                                 // after these, too: they may pass an op on
  deadline = std::min(deadline, next_asking());
  const bool poll = deadline == Instant::min() || !done_.empty() || wakeup_.notified();
  if (!poll) wait_for_event(deadline);
  else if (::io_uring_sq_ready(&ring_) != 0 || events_pending()) submit_entries(events_pending());
  wakeup_.end_sleep();
  reap();
  if (!pool_.idle()) pool_.take(done_);
  inline_.has_slept();
  for (const IoOp* op : done_) inline_.completed(*op);
  completed.insert(completed.end(), done_.begin(), done_.end());
  done_.clear();
}

void UringBackend::reap() {
  unsigned head, count = 0;
  io_uring_cqe* cqe;
  io_uring_for_each_cqe(&ring_, head, cqe) {
    complete(*cqe);
    ++count;
  }
  ::io_uring_cq_advance(&ring_, count);
}

void UringBackend::complete(const io_uring_cqe& cqe) {
  if (cqe.user_data == wake_tag) {
    if (!(cqe.flags & IORING_CQE_F_MORE)) wakeups_watched_ = false;
    return;
  }
  if (cqe.user_data & cancel_tag) return cancel_answered(cqe.user_data & ~cancel_tag, cqe.res);
  IoOp& op = *reinterpret_cast<IoOp*>(cqe.user_data);
  std::int32_t result = cqe.res;
  if (op.kind == IoOp::Kind::write) --writes_;
  const bool cancelled = op.backend_data[1] == cancelled_mark;
  if (cancelled) {
    std::erase(cancelled_, &op);
    std::erase(refused_, &op);
    if (result == -EINTR) result = -ECANCELED;   // it was waiting on a thread of the ring
  }
  if (must_be_repeated(op, result)) return pool_.submit(op);
  if (result == -ECANCELED && !cancelled && op.aside) {
    op.aside = false;
    refused_aside_.push_back(&op);
    return;
  }
  op.backend_data[1] = completed_mark;
  finish(op, result);
}

}  // namespace

Result<std::unique_ptr<IoBackend>> make_uring_backend(UringOptions options) {
  const Result<int> event = posix::Wakeup::open();
  if (!event) return event.error();
  io_uring ring;
  bool modern = false;
  const std::int64_t result = open_ring(ring, modern);
  if (result < 0) {
    ::close(*event);
    return Error::from_errno(static_cast<int>(-result), "set up io_uring");
  }
  return std::unique_ptr<IoBackend>(
      std::make_unique<UringBackend>(ring, modern, *event, options));
}

}  // namespace tidemark
