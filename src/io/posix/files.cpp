#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "io/posix/calls.hpp"
#include "io/posix/inline_io.hpp"

namespace tidemark::posix {
namespace {

constexpr std::size_t pieces_max = 1024;         // IOV_MAX

off_t offset_of(const IoOp& op) { return static_cast<off_t>(op.offset); }

std::int64_t fallocate(const IoOp& op, int mode) noexcept {
  const auto length = static_cast<off_t>(op.length);
  return retried([&] { return ::fallocate(descriptor(op.handle), mode, offset_of(op), length); });
}

std::int64_t punch_hole(const IoOp& op) noexcept {
  return fallocate(op, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
}

// Where ZERO_RANGE is missing (tmpfs): a hole, filled again so that the space stays the file's.
std::int64_t zero_range(const IoOp& op) noexcept {
  const std::int64_t zeroed = fallocate(op, FALLOC_FL_ZERO_RANGE);
  if (zeroed != -EOPNOTSUPP) return zeroed;
  const std::int64_t punched = punch_hole(op);
  return punched < 0 ? punched : fallocate(op, 0);
}

std::int64_t discard_device(const IoOp& op) noexcept {
  std::uint64_t range[2] = {op.offset, op.length};
  const std::int64_t done = retried([&] { return ::ioctl(descriptor(op.handle), BLKDISCARD, range); });
  return done == -ENOTTY ? -EOPNOTSUPP : done;
}

bool is_regular(int fd, std::uint64_t& size) noexcept {
  struct stat st;
  if (::fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return false;
  size = static_cast<std::uint64_t>(st.st_size);
  return true;
}

int open_flags(const OpenFlags& flags) noexcept {
  int value = O_CLOEXEC | O_NOCTTY | (flags.write ? O_RDWR : O_RDONLY);
  if (flags.temporary) return value | O_TMPFILE | (flags.direct ? O_DIRECT : 0);
  if (flags.create) value |= O_CREAT;
  if (flags.exclusive) value |= O_EXCL;
  if (flags.truncate) value |= O_TRUNC;
  if (flags.direct) value |= O_DIRECT;
  if (flags.directory) value |= O_DIRECTORY;
  if (flags.no_follow) value |= O_NOFOLLOW;
  return value;
}

}  // namespace

std::int64_t read_file(IoOp& op) noexcept {
  std::array<iovec, pieces_max> pieces;
  const auto count = static_cast<int>(op.buffers.gather(pieces));
  const int fd = descriptor(op.handle);
  return retried([&] { return ::preadv(fd, pieces.data(), count, offset_of(op)); });
}

std::int64_t write_file(IoOp& op) noexcept {
  const int fd = descriptor(op.handle);
  std::array<iovec, pieces_max> pieces;
  const auto count = static_cast<int>(op.buffers.gather(pieces));
  const auto write = [&](int flags) {
    return retried([&] { return ::pwritev2(fd, pieces.data(), count, offset_of(op), flags); });
  };
  if (!op.durable) return write(0);
  const std::int64_t durable = write(RWF_DSYNC);
  if (durable != -EOPNOTSUPP) return durable;
  const std::int64_t plain = write(0);
  if (plain < 0) return plain;
  const std::int64_t synced = retried([&] { return ::fdatasync(fd); });
  return synced < 0 ? synced : plain;
}

std::int64_t allocate_file(IoOp& op) noexcept {
  if (op.length == 0) return 0;
  switch (op.allocate) {
    case AllocateMode::punch_hole: return punch_hole(op);   // a device: zeroes or EOPNOTSUPP
    case AllocateMode::discard: return discard_device(op);
    case AllocateMode::zero_range: return zero_range(op);
    case AllocateMode::preallocate: return fallocate(op, 0);
  }
  return -EINVAL;
}

// What cannot tell data from holes is all data.
std::int64_t find_extent(IoOp& op) noexcept {
  const int fd = descriptor(op.handle);
  FileExtent& extent = op.extra->extent;
  std::uint64_t size = 0;
  if (!is_regular(fd, size)) {
    const std::int64_t end = retried([&] { return ::lseek(fd, 0, SEEK_END); });
    if (end < 0) return end;
    size = static_cast<std::uint64_t>(end);
    extent = {true, op.offset < size ? size - op.offset : 0};
    return 0;
  }
  extent = {true, op.offset < size ? size - op.offset : 0};
  if (extent.length == 0) return 0;
  const off_t data = ::lseek(fd, offset_of(op), SEEK_DATA);
  if (data < 0) {
    extent.data = errno != ENXIO;
    return 0;
  }
  extent.data = data == offset_of(op);
  const off_t end = extent.data ? ::lseek(fd, data, SEEK_HOLE) : data;
  if (end > offset_of(op)) extent.length = std::min<std::uint64_t>(extent.length, end - op.offset);
  return 0;
}

// Opened without blocking, so that a FIFO's missing peer holds up no thread; then blocking again.
std::int64_t open_file(IoOp& op) noexcept {
  const OpenFlags& flags = op.extra->open;
  const char* path = op.extra->path.c_str();
  const int value = open_flags(flags);
  std::int64_t fd = retried([&] { return ::open(path, value | O_NONBLOCK, 0600); });
  if (fd == -EWOULDBLOCK) fd = retried([&] { return ::open(path, value, 0600); });   // a lease
  if (fd < 0) return fd;
  ::fcntl(static_cast<int>(fd), F_SETFL, flags.direct ? O_DIRECT : 0);
  op.backend_data[0] = static_cast<std::uint64_t>(classify(static_cast<int>(fd), flags.direct));
  return fd;
}

std::int64_t lock_file(IoOp& op) noexcept {
  const LockRequest& request = op.extra->lock;
  const bool test = request.mode == LockRequest::Mode::test_exclusive;
  struct flock lock = {};
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(request.offset);
  lock.l_len = static_cast<off_t>(request.length);
  switch (request.mode) {
    case LockRequest::Mode::unlock: lock.l_type = F_UNLCK; break;
    case LockRequest::Mode::shared: lock.l_type = F_RDLCK; break;
    case LockRequest::Mode::exclusive:
    case LockRequest::Mode::test_exclusive: lock.l_type = F_WRLCK; break;
  }
  const int command = test ? F_OFD_GETLK : F_OFD_SETLK;
  const std::int64_t result =
      retried([&] { return ::fcntl(descriptor(op.handle), command, &lock); });
  if (result == -EACCES) return -EAGAIN;
  return test && result == 0 && lock.l_type != F_UNLCK ? -EAGAIN : result;
}

}  // namespace tidemark::posix
