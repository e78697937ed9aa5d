#include "io/posix/inline_io.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <utility>

#include "io/posix/calls.hpp"
#include "io/posix/host.hpp"

namespace tidemark::posix {
namespace {

bool finish(IoOp& op, std::int64_t result) noexcept {
  op.result = result;
  return true;
}

bool try_socket(IoOp& op) noexcept {
  const std::int64_t result = transfer(op, MSG_DONTWAIT);
  if (result != -EAGAIN) return finish(op, result);
  op.backend_data[0] = would_wait;
  return false;
}

// At most so much at once, so that one transfer does not hold the thread for long.
constexpr std::size_t transfer_max = 1 << 20;

std::int64_t transfer_now(IoOp& op, int flags) noexcept {
  std::array<iovec, 64> pieces;
  const Buffers part = op.buffers.first(std::min(op.buffers.size(), transfer_max));
  const auto count = static_cast<int>(part.gather(pieces));
  const auto at = static_cast<off_t>(op.offset);
  const int fd = descriptor(op.handle);
  if (op.kind == IoOp::Kind::read)
    return retried([&] { return ::preadv2(fd, pieces.data(), count, at, flags); });
  return retried([&] { return ::pwritev2(fd, pieces.data(), count, at, flags); });
}

constexpr std::size_t page = 4096;
constexpr std::size_t quick_write_max = 64 * 1024;
constexpr Duration quick_time_max = std::chrono::microseconds(200);

long times_slept() noexcept {
  rusage usage;
  ::getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

bool is_regular(int fd) noexcept {
  struct stat st;
  return ::fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

}  // namespace

InlineClass classify(int fd, bool direct) noexcept {
  if (direct) return InlineClass::never;
  struct statfs fs;
  if (::fstatfs(fd, &fs) != 0) return InlineClass::never;
  if (!is_regular(fd)) return InlineClass::device;
  const bool memory_fs = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
  return memory_fs ? InlineClass::memory : InlineClass::cached;
}

bool InlineIo::try_now(IoOp& op) noexcept {
  switch (op.kind) {
    case IoOp::Kind::recv:
    case IoOp::Kind::send: return try_socket(op);
    case IoOp::Kind::shutdown: return finish(op, perform_blocking(op));
    case IoOp::Kind::read:
    case IoOp::Kind::write:
    case IoOp::Kind::sync: return try_file(op);
    default: return false;
  }
}

InlineIo::File& InlineIo::file(Handle handle) {
  const auto at = static_cast<std::size_t>(descriptor(handle));
  if (at >= files_.size()) files_.resize(at + 1);
  return files_[at];
}

void InlineIo::opened(const IoOp& op) {
  File& f = file(static_cast<Handle>(op.result));
  f = File{};
  f.kind = static_cast<InlineClass>(op.backend_data[0]);
}

std::uint64_t InlineIo::forget(Handle handle) noexcept {
  const auto at = static_cast<std::size_t>(descriptor(handle));
  if (at >= files_.size()) return static_cast<std::uint64_t>(InlineClass::unknown);
  return static_cast<std::uint64_t>(std::exchange(files_[at], File{}).kind);
}

bool InlineIo::try_file(IoOp& op) {
  if (!offset_is_sane(op)) return false;
  File& f = file(op.handle);
  if (f.kind == InlineClass::unknown) {
    const int flags = ::fcntl(descriptor(op.handle), F_GETFL);
    f.kind = flags < 0 || (flags & O_DIRECT) ? InlineClass::never : InlineClass::device;
  }
  if (f.kind == InlineClass::never) return false;
  if (f.kind == InlineClass::memory) return try_memory(op);
  if (op.kind == IoOp::Kind::read) return try_without_waiting(op, f.reads);
  if (op.kind == IoOp::Kind::sync || op.durable) return false;
  return f.writes ? try_without_waiting(op, f.writes) : try_quick_write(op, f);
}

bool InlineIo::try_memory(IoOp& op) noexcept {
  if (op.kind == IoOp::Kind::sync) return finish(op, 0);
  // Much data takes its time where pages are made for it; another processor may do that.
  if (op.kind == IoOp::Kind::write && op.buffers.size() > quick_write_max) return false;
  return finish(op, transfer_now(op, 0));
}

bool InlineIo::try_without_waiting(IoOp& op, bool& allowed) noexcept {
  const std::int64_t result = transfer_now(op, RWF_NOWAIT);
  // Linux 5.9 and 5.10 may say "end of file" of what is just not cached (preadv2(2), BUGS).
  if (result == 0 && op.kind == IoOp::Kind::read) return false;
  if (result >= 0) return finish(op, result);
  if (result != -EAGAIN) allowed = false;        // refused, or an error: the long way says which
  return false;
}

bool InlineIo::try_quick_write(IoOp& op, File& f) noexcept {
  // Parts of pages might have to be read first; much data is better copied by another processor.
  const bool quick = is_aligned(op.offset | op.buffers.size(), page) &&
                     op.buffers.size() <= quick_write_max;
  const Instant start = monotonic_now();
  if (!quick || start < f.quick_from) return false;
  if (!sleeps_known_) sleeps_ = times_slept();
  sleeps_known_ = true;
  const std::int64_t result = transfer_now(op, 0);
  const Instant took = monotonic_now() - start;
  if (took > quick_time_max && times_slept() != sleeps_) {      // not only preempted
    f.quick_from = start + 1000 * took;
    sleeps_known_ = false;
  }
  return finish(op, result);
}

}  // namespace tidemark::posix
