// stat: what a file is, how large, and what direct I/O on it must be aligned to.
//
// The alignment is the kernel's own answer (STATX_DIOALIGN, Linux 6.1) where it gives one, else a
// device's logical block size, else what a file opened for direct I/O lets us read, else 4096,
// which every disk accepts.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "io/posix/calls.hpp"

namespace tidemark::posix {
namespace {

constexpr std::uint32_t safe_alignment = 4096;

FileInfo::Type type_of(unsigned mode) {
  if (S_ISREG(mode)) return FileInfo::Type::regular;
  if (S_ISBLK(mode)) return FileInfo::Type::block_device;
  if (S_ISDIR(mode)) return FileInfo::Type::directory;
  return FileInfo::Type::other;
}

std::int64_t fill_device(int fd, FileInfo& info) noexcept {
  int read_only = 0, sector = 0;
  if (::ioctl(fd, BLKGETSIZE64, &info.size) != 0) return -errno;
  info.allocated = info.size;
  info.read_only = ::ioctl(fd, BLKROGET, &read_only) == 0 && read_only != 0;
  if (::ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0)
    info.logical_block = info.memory_align = static_cast<std::uint32_t>(sector);
  return 0;
}

std::int64_t fill_device(IoOp& op) noexcept {
  if (op.extra->path.empty()) return fill_device(descriptor(op.handle), op.extra->info);
  const char* path = op.extra->path.c_str();
  const int flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC;
  const std::int64_t fd = retried([&] { return ::open(path, flags); });
  if (fd < 0) return fd;
  const std::int64_t result = fill_device(static_cast<int>(fd), op.extra->info);
  ::close(static_cast<int>(fd));
  return result;
}

// True when 512 bytes can be read directly.  Only a file open for direct I/O, with data, can tell.
bool reads_sectors(int fd, std::uint64_t size) noexcept {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || !(flags & O_DIRECT) || size < 2 * 512) return false;
  alignas(4096) char memory[2 * 512];
  return retried([&] { return ::pread(fd, memory + 512, 512, 512); }) == 512;
}

bool fill_reported_alignment([[maybe_unused]] const struct statx& st,
                             [[maybe_unused]] FileInfo& info) noexcept {
#ifdef STATX_DIOALIGN
  if ((st.stx_mask & STATX_DIOALIGN) == 0 || st.stx_dio_offset_align == 0) return false;
  info.logical_block = st.stx_dio_offset_align;
  info.memory_align = st.stx_dio_mem_align;
  return true;
#else
  return false;
#endif
}

void fill(const struct statx& st, FileInfo& info) noexcept {
  info.type = type_of(st.stx_mode);
  info.size = st.stx_size;
  info.allocated = st.stx_blocks * 512;
  info.device = makedev(st.stx_dev_major, st.stx_dev_minor);
  info.inode = st.stx_ino;
  info.change_time_ns = st.stx_ctime.tv_sec * 1'000'000'000 + st.stx_ctime.tv_nsec;
  if (st.stx_mask & STATX_BTIME) info.birth_time_ns = st.stx_btime.tv_sec * 1'000'000'000 + st.stx_btime.tv_nsec;
  info.read_only = false;
  info.device_major = st.stx_rdev_major;
  info.device_minor = st.stx_rdev_minor;
}

}  // namespace

std::int64_t stat_file(IoOp& op) noexcept {
  FileInfo& info = op.extra->info;
  const bool by_handle = op.extra->path.empty();
  const int fd = by_handle ? descriptor(op.handle) : AT_FDCWD;
  unsigned mask = STATX_BASIC_STATS | STATX_BTIME;
#ifdef STATX_DIOALIGN
  mask |= STATX_DIOALIGN;
#endif
  struct statx st = {};
  const int flags = by_handle ? AT_EMPTY_PATH : 0;
  const std::int64_t result =
      retried([&] { return ::statx(fd, op.extra->path.c_str(), flags, mask, &st); });
  if (result < 0) return result;
  fill(st, info);
  if (info.type == FileInfo::Type::block_device) {
    const std::int64_t device = fill_device(op);
    if (device < 0) return device;
  } else {
    const bool sectors = by_handle && reads_sectors(fd, info.size);
    info.logical_block = info.memory_align = sectors ? 512 : safe_alignment;
  }
  fill_reported_alignment(st, info);
  return 0;
}

}  // namespace tidemark::posix
