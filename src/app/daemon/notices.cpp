#include "app/daemon/notices.hpp"

#include <limits.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace tidemark {
namespace {

// A pipe that is writable at all takes so much whole (pipe(7)).
constexpr std::size_t line_max = PIPE_BUF;

bool writable(int fd) noexcept {
  pollfd asked{fd, POLLOUT, 0};
  return ::poll(&asked, 1, 0) == 1 && (asked.revents & POLLOUT);
}

bool write_line(int fd, std::string line) {
  line.resize(std::min(line.size(), line_max - 1));
  line += '\n';
  return writable(fd) && ::write(fd, line.data(), line.size()) > 0;
}

}  // namespace

void Notices::tell(std::string line) {
  if (lost_ && write_line(fd_, fmt::format("tidemarkd: lines that could not be written here before this one: {}", lost_))) lost_ = 0;
  if (lost_ || !write_line(fd_, std::move(line))) ++lost_;
}

}  // namespace tidemark
