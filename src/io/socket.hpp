// Socket and Listener: byte streams between programs, on a reactor.  close() is awaited before they
// go (asserted).
#pragma once

#include "io/reactor.hpp"

namespace tidemark {

class Socket {
 public:
  static Task<Socket> connect(Reactor& reactor, SocketAddress address, CancelToken token = {});

  Socket() = default;
  Socket(Reactor& reactor, Handle handle) : reactor_(&reactor), handle_(handle) {}
  Socket(Socket&& o) noexcept;
  Socket& operator=(Socket&& o) noexcept;
  ~Socket();

  bool is_open() const noexcept { return handle_ != Handle::none; }
  Reactor& reactor() const noexcept { return *reactor_; }
  Handle handle() const noexcept { return handle_; }

  // What has come, at least one byte; 0 at the end of the stream.
  Task<std::size_t> recv_some(Buffers into, CancelToken token = {});
  // Exactly so much; Errc::disconnected when the stream ends before.
  Task<> recv_all(Buffers into, CancelToken token = {});
  Task<> send_all(Buffers from, CancelToken token = {});
  // Ends both directions; a recv or send that waits returns.
  Task<> shutdown();
  Task<> close();
  // To another reactor, while nothing is in flight.
  void move_to(Reactor& reactor) noexcept { reactor_ = &reactor; }

 private:
  Reactor* reactor_ = nullptr;
  Handle handle_ = Handle::none;
};

class Listener {
 public:
  // A unix socket is made private to its owner (mode 0600); a stale one that nobody listens on is
  // replaced, one in use is Errc::busy.
  static Task<Listener> listen(Reactor& reactor, SocketAddress address);

  Listener() = default;
  Listener(Listener&& o) noexcept;
  Listener& operator=(Listener&& o) noexcept;
  ~Listener();

  const SocketAddress& address() const noexcept { return address_; }   // port 0 is resolved
  Task<Socket> accept(CancelToken token = {});
  Task<> close();                                 // unlinks a unix socket

 private:
  Reactor* reactor_ = nullptr;
  Handle handle_ = Handle::none;
  SocketAddress address_;
};

}  // namespace tidemark
