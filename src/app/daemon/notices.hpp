// Notices: what the daemon says by itself on standard error, a line each, for whoever reads it.
//
// Nobody waits for the reader, for guests wait for the thread that writes: a line that cannot be written at once is lost, and the
// next one that can be says how many were.  One thread.
#pragma once

#include <cstddef>
#include <string>

namespace tidemark {

class Notices {
 public:
  explicit Notices(int fd) noexcept : fd_(fd) {}
  Notices(const Notices&) = delete;

  // Without the line's end.  Longer ones than a pipe takes at once are cut.
  void tell(std::string line);

 private:
  int fd_;
  std::size_t lost_ = 0;                 // lines since one was written
};

}  // namespace tidemark
