// What the tests of the contract share: a reactor on a world, and files and sockets that are closed
// on every path.
#pragma once

#include <gtest/gtest.h>

#include "io/file.hpp"
#include "io/socket.hpp"
#include "task/finally.hpp"
#include "task/group.hpp"
#include "tests/contract/io/worlds.hpp"

namespace tidemark::contract {

class IoContract : public testing::TestWithParam<WorldCase> {
 protected:
  // Runs the coroutine that `body` returns; it must end well.
  template <class Body>
  void check(Body body) {
    Result<> result = reactor.run(body());
    EXPECT_TRUE(result) << result.error().message();
  }
  std::string path(std::string_view name) const { return directory + "/" + std::string(name); }
  SocketAddress unix_address(std::string_view name = "socket") const {
    SocketAddress address;
    address.path = path(name);
    return address;
  }
  // use(File&) -> Task<>
  template <class Use>
  Task<> with_file(std::string name, OpenFlags flags, Use use) {
    File file = co_await File::open(reactor, std::move(name), flags);
    auto close = [&file] { return file.close(); };
    co_await finally(use(file), close);
  }
  // use(Socket&, Socket&) -> Task<>: two ends of one connection.
  template <class Use>
  Task<> with_pair(SocketAddress address, Use use) {
    Socket near, far;
    co_await connect_pair(address, near, far);
    auto close = [&]() -> Task<> {
      co_await near.close();
      co_await far.close();
    };
    co_await finally(use(near, far), close);
  }
  // use(Listener&) -> Task<>
  template <class Use>
  Task<> with_listener(SocketAddress address, Use use) {
    Listener listener = co_await Listener::listen(reactor, std::move(address));
    auto close = [&listener] { return listener.close(); };
    co_await finally(use(listener), close);
  }

  std::unique_ptr<World> world = GetParam().make();
  std::string directory = world->directory();
  Reactor reactor{world->backend()};

  Task<> connect_pair(SocketAddress address, Socket& near, Socket& far);
};

inline OpenFlags reading() { return {}; }
inline OpenFlags writing() {
  OpenFlags flags;
  flags.write = flags.create = true;
  return flags;
}

// Bytes that tell where they are.
std::string pattern(std::size_t size, std::uint64_t seed);
inline Buffers out(std::string_view text) { return Buffers::of_const(as_bytes(text)); }
inline Buffers in(std::string& text) { return std::as_writable_bytes(std::span(text)); }

// EXPECTs that the outcome is this kind of error.
template <class T>
void expect_error(const Result<T>& outcome, Errc code) {
  ASSERT_FALSE(outcome.ok());
  EXPECT_EQ(outcome.error().code(), code) << outcome.error().message();
}

}  // namespace tidemark::contract

// Runs a suite of IoContract's on every world.
#define TM_ON_EVERY_WORLD(suite)                                                          \
  INSTANTIATE_TEST_SUITE_P(Io, suite, testing::ValuesIn(tidemark::contract::worlds()),    \
                           [](const auto& about) { return about.param.name; })
