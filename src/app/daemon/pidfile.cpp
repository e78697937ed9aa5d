#include "app/daemon/pidfile.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace tidemark {

namespace {

// Whether the name still is that of the file: who had it before may have removed it.
bool has_name(int fd, const std::string& path) {
  struct stat ours {}, named {};
  return ::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_dev == named.st_dev && ours.st_ino == named.st_ino;
}

}  // namespace

Result<Pidfile> Pidfile::create(std::string path) {
  Pidfile file;
  for (;;) {
    file.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file.fd_ < 0) return Error::from_errno(errno, "cannot create PID file '" + path + "'");
    const bool locked = ::flock(file.fd_, LOCK_EX | LOCK_NB) == 0;
    if (locked && has_name(file.fd_, path)) break;
    ::close(std::exchange(file.fd_, -1));
    if (!locked) return Error(Errc::busy, "PID file '" + path + "' is held by a running tidemarkd");
  }
  if (::ftruncate(file.fd_, 0) != 0) return Error::from_errno(errno, "cannot write PID file '" + path + "'");
  file.path_ = std::move(path);
  return file;
}

Result<> Pidfile::write_pid() {
  if (fd_ < 0) return {};
  const std::string text = std::to_string(::getpid()) + "\n";
  if (::write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size())) return {};
  return Error::from_errno(errno, "cannot write PID file '" + path_ + "'");
}

Pidfile::~Pidfile() {
  if (fd_ < 0) return;
  if (!path_.empty() && has_name(fd_, path_)) ::unlink(path_.c_str());
  ::close(fd_);
}

}  // namespace tidemark
