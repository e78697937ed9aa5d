// --daemonize: the process that was started ends when the daemon serves, or with its failure.
#pragma once

#include <utility>

#include "base/error.hpp"

namespace tidemark {

class Background {
 public:
  // Forks.  Returns in the child only; the first process waits and exits 0 once ready() was called,
  // or 1 when the child ended before.
  static Result<Background> enter();
  Background() = default;
  Background(Background&& o) noexcept : ready_fd_(std::exchange(o.ready_fd_, -1)) {}
  Background& operator=(Background&& o) noexcept {
    std::swap(ready_fd_, o.ready_fd_);
    return *this;
  }
  ~Background();

  // From here on there is no terminal: standard streams go to /dev/null.
  void ready() noexcept;

 private:
  int ready_fd_ = -1;
};

}  // namespace tidemark
