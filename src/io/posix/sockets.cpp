// Sockets: made close-on-exec and blocking; who must not wait passes MSG_DONTWAIT.
//
// A unix socket is private (mode 0600) from its birth: Linux makes the name with the mode that the
// socket has when it is bound.

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "io/posix/calls.hpp"

namespace tidemark::posix {
namespace {

constexpr int connect_poll_ms = 50;
constexpr int connect_timeout_ms = 60'000;
constexpr int stale_poll_ms = 20, stale_max_ms = 2'000;

class Socket {                          // closes what is not released
 public:
  explicit Socket(int family, int flags = 0)
      : fd_(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0)) {}
  Socket(const Socket&) = delete;
  ~Socket() { if (fd_ >= 0) ::close(fd_); }
  int fd() const { return fd_; }
  std::int64_t release() { return std::exchange(fd_, -1); }
  void set(int level, int option, int value) const {
    ::setsockopt(fd_, level, option, &value, sizeof value);
  }

 private:
  int fd_;
};

using AddressList = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

std::atomic_ref<std::uint64_t> cancel_flag(IoOp& op) { return std::atomic_ref(op.backend_data[1]); }

int errno_of_lookup(int code) {
  switch (code) {
    case EAI_SYSTEM: return errno;
    case EAI_AGAIN: return EAGAIN;
    case EAI_MEMORY: return ENOMEM;
    case EAI_SERVICE: return EINVAL;    // no such port
    default: return ENXIO;              // no such host
  }
}

// getaddrinfo() takes what is left of a larger one after the division by 65536.
bool is_beyond_ports(std::string_view port) noexcept {
  unsigned long number = 0;
  const auto [stop, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  return error == std::errc::result_out_of_range || (error == std::errc() && stop == port.data() + port.size() && number > 65535);
}

std::int64_t look_up(const char* host, const char* port, int flags, AddressList& out) noexcept {
  if (port && is_beyond_ports(port)) return -EINVAL;
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int code = ::getaddrinfo(host, port, &hints, &list);
  if (code != 0) return -errno_of_lookup(code);
  out.reset(list);
  return 0;
}

std::int64_t fill_unix(const std::string& path, sockaddr_un& out) noexcept {
  if (path.empty()) return -EINVAL;
  if (path.size() >= sizeof out.sun_path) return -ENAMETOOLONG;
  out = {};
  out.sun_family = AF_UNIX;
  std::memcpy(out.sun_path, path.data(), path.size());
  return 0;
}

// Both ends of TCP: small replies leave at once, dead peers are noticed.
void set_tcp_options(const Socket& socket) {
  socket.set(IPPROTO_TCP, TCP_NODELAY, 1);
  socket.set(SOL_SOCKET, SO_KEEPALIVE, 1);
}

std::int64_t connection_error(int fd) noexcept {
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return -errno;
  return -error;
}

// Connects a non-blocking socket, looking up now and then whether it is still wanted.
std::int64_t connect_patiently(IoOp& op, int fd, const sockaddr* to, socklen_t length) noexcept {
  for (int waited = 0; waited < connect_timeout_ms; waited += connect_poll_ms) {
    const std::int64_t result = retried([&] { return ::connect(fd, to, length); });
    if (result == 0 || result == -EISCONN) return 0;
    if (result != -EINPROGRESS && result != -EALREADY && result != -EAGAIN) return result;
    if (cancel_flag(op).load(std::memory_order_relaxed) != 0) return -ECANCELED;
    // EAGAIN: a unix listener's queue is full, which poll() does not wait for.
    pollfd waiting = {result == -EAGAIN ? -1 : fd, POLLOUT, 0};
    if (::poll(&waiting, 1, connect_poll_ms) > 0)
      if (const std::int64_t error = connection_error(fd); error != 0) return error;
  }
  return -ETIMEDOUT;
}

std::int64_t connect_to(IoOp& op, int family, const sockaddr* to, socklen_t length) noexcept {
  Socket socket(family, SOCK_NONBLOCK);
  if (socket.fd() < 0) return -errno;
  const std::int64_t result = connect_patiently(op, socket.fd(), to, length);
  if (result < 0) return result;
  if (family != AF_UNIX) set_tcp_options(socket);
  ::fcntl(socket.fd(), F_SETFL, 0);
  return socket.release();
}

std::int64_t connect_inet(IoOp& op) noexcept {
  const SocketAddress& address = op.extra->address;
  AddressList list(nullptr, &::freeaddrinfo);
  std::int64_t result = look_up(address.host.c_str(), address.port.c_str(), 0, list);
  for (const addrinfo* a = list.get(); a; a = a->ai_next) {
    result = connect_to(op, a->ai_family, a->ai_addr, a->ai_addrlen);
    if (result >= 0 || result == -ECANCELED) return result;
  }
  return result;
}

bool is_socket(const char* path) {
  struct stat st;
  return ::lstat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

// Who called listen(): a child of its may have the socket now.
bool listener_is_dead(int connected) noexcept {
  ucred listener{};
  socklen_t size = sizeof listener;
  if (::getsockopt(connected, SOL_SOCKET, SO_PEERCRED, &listener, &size) != 0 || listener.pid <= 0) return false;
  return ::kill(listener.pid, 0) != 0 && errno == ESRCH;
}

// True for a socket's name that no process listens on any more.  The kernel lets go of sockets that io_uring of a killed process
// was waiting on a moment after its end.
bool is_stale(const sockaddr_un& address) noexcept {
  if (!is_socket(address.sun_path)) return false;
  const auto* to = reinterpret_cast<const sockaddr*>(&address);
  for (int waited = 0;; waited += stale_poll_ms) {
    const Socket probe(AF_UNIX, SOCK_NONBLOCK);
    const std::int64_t connected = retried([&] { return ::connect(probe.fd(), to, sizeof address); });
    if (connected == -ECONNREFUSED) return true;
    if (connected < 0 || !listener_is_dead(probe.fd()) || waited >= stale_max_ms) return false;
    (void)::poll(nullptr, 0, stale_poll_ms);
  }
}

std::int64_t bind_unix(int fd, const sockaddr_un& address) noexcept {
  const auto* to = reinterpret_cast<const sockaddr*>(&address);
  const auto bind = [&] { return retried([&] { return ::bind(fd, to, sizeof address); }); };
  const std::int64_t bound = bind();
  if (bound != -EADDRINUSE || !is_stale(address)) return bound;
  ::unlink(address.sun_path);
  return bind();
}

std::int64_t listen_unix(IoOp& op) noexcept {
  sockaddr_un address;
  if (const std::int64_t bad = fill_unix(op.extra->address.path, address); bad < 0) return bad;
  Socket socket(AF_UNIX);
  if (socket.fd() < 0 || ::fchmod(socket.fd(), 0600) != 0) return -errno;
  const std::int64_t bound = bind_unix(socket.fd(), address);
  if (bound < 0) return bound;
  if (::listen(socket.fd(), SOMAXCONN) == 0) return socket.release();
  const std::int64_t refused = -errno;
  ::unlink(address.sun_path);
  return refused;
}

std::int64_t fill_in_port(int fd, std::string& port) noexcept {
  sockaddr_storage name;
  socklen_t length = sizeof name;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&name), &length) != 0) return -errno;
  const std::uint16_t number = name.ss_family == AF_INET6
                                   ? reinterpret_cast<const sockaddr_in6&>(name).sin6_port
                                   : reinterpret_cast<const sockaddr_in&>(name).sin_port;
  port = std::to_string(ntohs(number));
  return 0;
}

// What is accepted inherits these options.
std::int64_t listen_at(const addrinfo& at, std::string& port) noexcept {
  Socket socket(at.ai_family);
  if (socket.fd() < 0) return -errno;
  socket.set(SOL_SOCKET, SO_REUSEADDR, 1);
  if (at.ai_family == AF_INET6) socket.set(IPPROTO_IPV6, IPV6_V6ONLY, 0);
  set_tcp_options(socket);
  if (::bind(socket.fd(), at.ai_addr, at.ai_addrlen) != 0) return -errno;
  if (::listen(socket.fd(), SOMAXCONN) != 0) return -errno;
  const std::int64_t named = fill_in_port(socket.fd(), port);
  return named < 0 ? named : socket.release();
}

std::int64_t listen_on_host(const char* host, std::string& port) noexcept {
  AddressList list(nullptr, &::freeaddrinfo);
  std::int64_t result = look_up(host, port.c_str(), AI_PASSIVE, list);
  for (const addrinfo* a = list.get(); a; a = a->ai_next)
    if (result = listen_at(*a, port); result >= 0) break;
  return result;
}

// No host: every address of the machine; "::" takes IPv4 too.
std::int64_t listen_inet(IoOp& op) noexcept {
  SocketAddress& address = op.extra->address;
  if (!address.host.empty()) return listen_on_host(address.host.c_str(), address.port);
  const std::int64_t result = listen_on_host("::", address.port);
  const bool no_ipv6 = result == -EAFNOSUPPORT || result == -EADDRNOTAVAIL || result == -ENXIO;
  return no_ipv6 ? listen_on_host("0.0.0.0", address.port) : result;
}

bool is_unix(const IoOp& op) {
  return op.extra->address.kind == SocketAddress::Kind::unix_path;
}

}  // namespace

void request_cancel(IoOp& op) noexcept { cancel_flag(op).store(1, std::memory_order_relaxed); }

std::int64_t transfer(IoOp& op, int flags) noexcept {
  std::array<iovec, 64> pieces;
  msghdr message = {};
  message.msg_iov = pieces.data();
  message.msg_iovlen = op.buffers.gather(pieces);
  const int fd = descriptor(op.handle);
  if (op.kind == IoOp::Kind::recv) return retried([&] { return ::recvmsg(fd, &message, flags); });
  return retried([&] { return ::sendmsg(fd, &message, flags | MSG_NOSIGNAL); });
}

std::int64_t accept_socket(IoOp& op) noexcept {
  return retried(
      [&] { return ::accept4(descriptor(op.handle), nullptr, nullptr, SOCK_CLOEXEC); });
}

std::int64_t connect_socket(IoOp& op) noexcept {
  if (!is_unix(op)) return connect_inet(op);
  sockaddr_un address;
  if (const std::int64_t bad = fill_unix(op.extra->address.path, address); bad < 0) return bad;
  return connect_to(op, AF_UNIX, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

std::int64_t listen_socket(IoOp& op) noexcept {
  return is_unix(op) ? listen_unix(op) : listen_inet(op);
}

}  // namespace tidemark::posix
