#include "io/socket.hpp"

#include <algorithm>
#include <cerrno>

namespace tidemark {
namespace {

// What is sent in one piece for its own sake, not as one of many answers: to hand it over costs less
// than what else this thread has to do would wait.
constexpr std::size_t aside_min = 64 * KiB;

Error failed_on(std::string_view verb, const SocketAddress& address, std::int64_t result) {
  std::string what(verb);
  what.append(" '").append(address.describe()).append("'");
  return Error::from_errno(static_cast<int>(-result), what);
}

Error failed(std::string_view verb, std::int64_t result) {
  return Error::from_errno(static_cast<int>(-result), verb);
}

// A connection that died before it was accepted says nothing about the listener (accept(2)).
bool is_the_peers(std::int64_t result) {
  static constexpr int theirs[] = {ECONNABORTED, EPROTO,   ENETDOWN,     ENOPROTOOPT, EHOSTDOWN,
                                   ENONET,       EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH};
  return std::find(std::begin(theirs), std::end(theirs), -result) != std::end(theirs);
}

}  // namespace

std::string SocketAddress::describe() const {
  if (kind == Kind::unix_path) return path;
  const bool six = host.find(':') != std::string::npos;
  return (six ? "[" + host + "]" : host) + ":" + port;
}

Task<Socket> Socket::connect(Reactor& reactor, SocketAddress address, CancelToken token) {
  IoOp::Extra extra;
  extra.address = address;
  IoOp op(IoOp::Kind::connect);
  op.extra = &extra;
  const std::int64_t result = co_await reactor.perform(op, token);
  if (result < 0) co_await failed_on("connect to", address, result);
  co_return Socket(reactor, static_cast<Handle>(result));
}

Socket::Socket(Socket&& o) noexcept
    : reactor_(o.reactor_), handle_(std::exchange(o.handle_, Handle::none)) {}

Socket& Socket::operator=(Socket&& o) noexcept {
  TM_ASSERT(!is_open());
  reactor_ = o.reactor_;
  handle_ = std::exchange(o.handle_, Handle::none);
  return *this;
}

Socket::~Socket() { TM_ASSERT(!is_open()); }     // close() was not awaited

Task<std::size_t> Socket::recv_some(Buffers into, CancelToken token) {
  IoOp op(IoOp::Kind::recv, handle_);
  op.buffers = into;
  const std::int64_t result = co_await reactor_->perform(op, token);
  if (result < 0) co_await failed("receive", result);
  co_return static_cast<std::size_t>(result);
}

Task<> Socket::recv_all(Buffers into, CancelToken token) {
  while (!into.empty()) {
    IoOp op(IoOp::Kind::recv, handle_);
    op.buffers = into;
    const std::int64_t result = co_await reactor_->perform(op, token);
    if (result < 0) co_await failed("receive", result);
    if (result == 0) co_await Error(Errc::disconnected, "receive: the peer closed the connection");
    into = into.from(static_cast<std::size_t>(result));
  }
}

Task<> Socket::send_all(Buffers from, CancelToken token) {
  while (!from.empty()) {
    IoOp op(IoOp::Kind::send, handle_);
    op.buffers = from;
    op.aside = from.size() >= aside_min;
    const std::int64_t result = co_await reactor_->perform(op, token);
    if (result < 0) co_await failed("send", result);
    from = from.from(static_cast<std::size_t>(result));
  }
}

Task<> Socket::shutdown() {
  IoOp op(IoOp::Kind::shutdown, handle_);
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0 && result != -ENOTCONN) co_await failed("shut down", result);
}

Task<> Socket::close() {
  if (!is_open()) co_return;
  IoOp op(IoOp::Kind::close, std::exchange(handle_, Handle::none));
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed("close a connection", result);
}

Task<Listener> Listener::listen(Reactor& reactor, SocketAddress address) {
  IoOp::Extra extra;
  extra.address = std::move(address);
  IoOp op(IoOp::Kind::listen);
  op.extra = &extra;
  const std::int64_t result = co_await reactor.perform(op);
  if (result < 0) co_await failed_on("listen on", extra.address, result);
  Listener listener;
  listener.reactor_ = &reactor;
  listener.handle_ = static_cast<Handle>(result);
  listener.address_ = std::move(extra.address);
  co_return listener;
}

Listener::Listener(Listener&& o) noexcept
    : reactor_(o.reactor_),
      handle_(std::exchange(o.handle_, Handle::none)),
      address_(std::move(o.address_)) {}

Listener& Listener::operator=(Listener&& o) noexcept {
  TM_ASSERT(handle_ == Handle::none);
  reactor_ = o.reactor_;
  handle_ = std::exchange(o.handle_, Handle::none);
  address_ = std::move(o.address_);
  return *this;
}

Listener::~Listener() { TM_ASSERT(handle_ == Handle::none); }

Task<Socket> Listener::accept(CancelToken token) {
  for (;;) {
    IoOp op(IoOp::Kind::accept, handle_);
    const std::int64_t result = co_await reactor_->perform(op, token);
    if (result >= 0) co_return Socket(*reactor_, static_cast<Handle>(result));
    if (!is_the_peers(result)) co_await failed_on("accept on", address_, result);
  }
}

Task<> Listener::close() {
  if (handle_ == Handle::none) co_return;
  // The name goes first: while we still listen on it, nobody takes it for a stale one of theirs.
  if (address_.kind == SocketAddress::Kind::unix_path) {
    IoOp::Extra extra;
    extra.path = address_.path;
    IoOp op(IoOp::Kind::unlink);
    op.extra = &extra;
    (void)co_await reactor_->perform(op);
  }
  IoOp op(IoOp::Kind::close, std::exchange(handle_, Handle::none));
  const std::int64_t result = co_await reactor_->perform(op);
  if (result < 0) co_await failed_on("close", address_, result);
}

}  // namespace tidemark
