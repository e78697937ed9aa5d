// The pid file: by its lock says that somebody runs, and by its content who, once all is served.
#pragma once

#include <string>

#include "base/error.hpp"

namespace tidemark {

class Pidfile {
 public:
  // Empty.  Errc::busy when another process holds it.
  static Result<Pidfile> create(std::string path);
  // Whoever waits for the pid can connect.
  Result<> write_pid();
  Pidfile() = default;
  Pidfile(Pidfile&& o) noexcept : path_(std::move(o.path_)), fd_(std::exchange(o.fd_, -1)) {}
  Pidfile& operator=(Pidfile&& o) noexcept {
    std::swap(path_, o.path_);
    std::swap(fd_, o.fd_);
    return *this;
  }
  ~Pidfile();                          // removes the file

 private:
  std::string path_;
  int fd_ = -1;
};

}  // namespace tidemark
