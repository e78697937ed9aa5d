#include "io/posix/perform.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/posix/calls.hpp"

namespace tidemark::posix {
namespace {

bool names_another(const std::string& path) { return path.find('\0') != std::string::npos; }

bool has_bad_path(const IoOp& op) {
  return op.extra && (names_another(op.extra->path) || names_another(op.extra->path2) ||
                      names_another(op.extra->address.path));
}

std::int64_t close_handle(int fd) noexcept {
  // Linux has closed the descriptor even when it reports EINTR.
  return ::close(fd) == 0 || errno == EINTR ? 0 : -errno;
}

std::int64_t dispatch(IoOp& op) noexcept {
  const int fd = descriptor(op.handle);
  const auto path = [&] { return op.extra->path.c_str(); };
  switch (op.kind) {
    case IoOp::Kind::read: return read_file(op);
    case IoOp::Kind::write: return write_file(op);
    case IoOp::Kind::sync: return retried([&] { return ::fdatasync(fd); });
    case IoOp::Kind::allocate: return allocate_file(op);
    case IoOp::Kind::extent: return find_extent(op);
    case IoOp::Kind::truncate:
      return retried([&] { return ::ftruncate(fd, static_cast<off_t>(op.length)); });
    case IoOp::Kind::recv:
    case IoOp::Kind::send: return transfer(op, 0);
    case IoOp::Kind::accept: return accept_socket(op);
    case IoOp::Kind::connect: return connect_socket(op);
    case IoOp::Kind::listen: return listen_socket(op);
    case IoOp::Kind::shutdown: return retried([&] { return ::shutdown(fd, SHUT_RDWR); });
    case IoOp::Kind::open: return open_file(op);
    case IoOp::Kind::close: return close_handle(fd);
    case IoOp::Kind::stat: return stat_file(op);
    case IoOp::Kind::lock: return lock_file(op);
    case IoOp::Kind::rename: return rename_path(op);
    case IoOp::Kind::link:
      return retried([&] { return ::link(path(), op.extra->path2.c_str()); });
    case IoOp::Kind::unlink: return retried([&] { return ::unlink(path()); });
    case IoOp::Kind::mkdir: return retried([&] { return ::mkdir(path(), 0700); });
    case IoOp::Kind::rmdir: return retried([&] { return ::rmdir(path()); });
    case IoOp::Kind::list: return list_directory(op);
    case IoOp::Kind::sync_dir: return sync_directory(op);
    case IoOp::Kind::write_back:
      if (op.drop) (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);     // leaves what is dirty, or on its way
      return retried([&] { return ::sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE); });
    case IoOp::Kind::work: op.extra->work(); return 0;
  }
  return -EINVAL;
}

}  // namespace

std::int64_t perform_blocking(IoOp& op) noexcept {
  return has_bad_path(op) || !offset_is_sane(op) ? -EINVAL : dispatch(op);
}

}  // namespace tidemark::posix
