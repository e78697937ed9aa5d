#include "io/posix/clone.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io/posix/calls.hpp"

namespace tidemark {
namespace {

class Opened {
 public:
  Opened(const std::string& path, int flags) noexcept
      : fd_(static_cast<int>(posix::retried([&] { return ::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK); }))) {}
  Opened(const Opened&) = delete;
  ~Opened() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const noexcept { return fd_; }
  Error failed(const std::string& path) const { return Error::from_errno(-fd_, "open '" + path + "'"); }

 private:
  const int fd_;                         // or -errno
};

// Another volume, or a file system that has no clones.
bool cannot(std::int64_t result) noexcept {
  return result == -EOPNOTSUPP || result == -ENOTTY || result == -EXDEV || result == -EINVAL || result == -ENOSYS || result == -EPERM;
}

}  // namespace

Result<bool> clone_file(const std::string& from, const std::string& to) {
  const Opened source(from, O_RDONLY);
  if (source.fd() < 0) return source.failed(from);
  const Opened target(to, O_WRONLY | O_TRUNC);
  if (target.fd() < 0) return target.failed(to);
  const std::int64_t result = posix::retried([&] { return ::ioctl(target.fd(), FICLONE, source.fd()); });
  if (result == 0) return true;
  if (cannot(result)) return false;
  return Error::from_errno(static_cast<int>(-result), "clone '" + from + "'");
}

}  // namespace tidemark
