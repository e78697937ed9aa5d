// Sockets between simulated processes: whole streams however they are cut, ends, limits, breaks.
#include "io/sim/testing.hpp"
#include "io/socket.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

std::string pattern(std::size_t size, std::uint64_t seed) {
  Prng prng(seed);
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(prng());
  return text;
}

SocketAddress address(std::string path = "/server") {
  SocketAddress a;
  a.path = std::move(path);
  return a;
}

class SimNetworkTest : public testing::Test {
 protected:
  // Serves one connection with handle(Socket&) -> Task<>.
  template <class Handle>
  Task<> serve(Reactor& reactor, Handle& handle) {
    Listener listener = co_await Listener::listen(reactor, address());
    const Result<> served = co_await serve_one(listener, handle).result();
    co_await listener.close();
    if (!served) co_await served.error();
  }
  template <class Handle>
  Task<> serve_one(Listener& listener, Handle& handle) {
    Socket socket = co_await listener.accept();
    auto close = [&socket] { return socket.close(); };
    co_await finally(handle(socket), close);
  }
  // A client with talk(Socket&) -> Task<>, as soon as there is a server.
  template <class Talk>
  Task<> call(Reactor& reactor, Talk& talk) {
    for (;;) {
      Result<Socket> connected = co_await Socket::connect(reactor, address()).result();
      if (!connected) {
        co_await reactor.sleep(1ms);
        continue;
      }
      Socket socket = *std::move(connected);
      auto close = [&socket] { return socket.close(); };
      co_await finally(talk(socket), close);
      co_return;
    }
  }
};

Task<std::string> receive_all(Socket& socket) {
  std::string all, part(10'000, '?');
  for (;;) {
    const std::size_t n = co_await socket.recv_some(in(part));
    if (n == 0) break;
    all.append(part, 0, n);
  }
  co_return all;
}

TEST_F(SimNetworkTest, StreamsOfTwoProcessesArriveWhole) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    SimOptions options;
    options.socket_buffer = 1000 * (1 + seed);
    SimWorld world(seed, options);
    SimProcess server(world, "server"), client(world, "client");
    const std::string question = pattern(300'000, seed), answer = pattern(100'000, seed + 1);
    auto handle = [&](Socket& socket) -> Task<> {
      std::string got(question.size(), '?');
      co_await socket.recv_all(in(got));
      EXPECT_TRUE(got == question);
      co_await socket.send_all(out(answer));
    };
    auto talk = [&](Socket& socket) -> Task<> {
      co_await socket.send_all(out(question));
      EXPECT_TRUE(co_await receive_all(socket) == answer);
    };
    server.start(serve(server.reactor(), handle));
    const Result<> talked = client.run(call(client.reactor(), talk));
    EXPECT_TRUE(talked) << talked.error().message();
    EXPECT_TRUE(server.join());
  }
}

TEST_F(SimNetworkTest, ASenderWaitsForItsReader) {
  SimWorld world(1);
  SimProcess server(world), client(world);
  std::size_t sent = 0;
  const std::size_t limit = world.options().socket_buffer;
  const std::string chunk(1000, 'x');
  auto handle = [&](Socket& socket) -> Task<> {
    co_await server.reactor().sleep(10s);
    EXPECT_LE(sent, limit);
    EXPECT_GT(sent, limit - 2 * chunk.size());
    EXPECT_EQ((co_await receive_all(socket)).size(), 1'000'000u);
  };
  auto talk = [&](Socket& socket) -> Task<> {
    for (int i = 0; i < 1000; ++i, sent += chunk.size()) co_await socket.send_all(out(chunk));
  };
  server.start(serve(server.reactor(), handle));
  EXPECT_TRUE(client.run(call(client.reactor(), talk)));
  EXPECT_TRUE(server.join());
}

TEST_F(SimNetworkTest, TransfersAreCutAndPiecesArriveApart) {
  SimWorld world(2);
  SimProcess server(world), client(world);
  int pieces = 0;
  auto handle = [&](Socket& socket) -> Task<> {
    std::string part(100, '?');
    for (;;) {
      const std::size_t n = co_await socket.recv_some(in(part));
      if (n == 0) break;
      ++pieces;
    }
  };
  const std::string hundred(100, 'x');
  auto talk = [&](Socket& socket) -> Task<> {
    for (int i = 0; i < 20; ++i) co_await socket.send_all(out(hundred));
  };
  server.start(serve(server.reactor(), handle));
  EXPECT_TRUE(client.run(call(client.reactor(), talk)));
  EXPECT_TRUE(server.join());
  EXPECT_GT(pieces, 20);
}

TEST_F(SimNetworkTest, AKilledServerEndsItsStreams) {
  SimWorld world(3);
  SimProcess server(world), client(world);
  auto handle = [&](Socket& socket) -> Task<> {
    std::string part(1, '?');
    co_await socket.recv_all(in(part));
    co_await server.reactor().sleep(24h);
  };
  auto talk = [&](Socket& socket) -> Task<> {
    co_await socket.send_all(out("x"));
    co_await client.reactor().sleep(1s);
    server.backend().kill();
    EXPECT_EQ(co_await receive_all(socket), "");
    EXPECT_FALSE((co_await socket.send_all(out("y")).result()).ok());
  };
  server.start(serve(server.reactor(), handle));
  EXPECT_TRUE(client.run(call(client.reactor(), talk)));
  EXPECT_TRUE(server.join());                    // sleeping is not I/O: it goes on
}

TEST_F(SimNetworkTest, BytesTakeTheirTime) {
  SimOptions options;
  options.net_latency_min = options.net_latency_max = 1s;
  SimWorld world(5, options);
  SimProcess server(world), client(world);
  Instant sent{0};
  auto handle = [&](Socket& socket) -> Task<> {
    std::string part(1, '?');
    while (sent == Instant{0}) co_await server.reactor().sleep(1ms);
    co_await socket.recv_all(in(part));
    EXPECT_GE(world.now() - sent, 1s);
  };
  auto talk = [&](Socket& socket) -> Task<> {
    sent = world.now();
    co_await socket.send_all(out("x"));
    co_await client.reactor().sleep(20s);
  };
  server.start(serve(server.reactor(), handle));
  EXPECT_TRUE(client.run(call(client.reactor(), talk)));
  EXPECT_TRUE(server.join());
}

TEST_F(SimNetworkTest, ClosingOnUnreadBytesBreaksTheConnection) {
  SimWorld world(6);
  SimProcess server(world), client(world);
  auto handle = [&](Socket&) { return server.reactor().sleep(1s); };
  auto talk = [&](Socket& socket) -> Task<> {
    co_await socket.send_all(out("unread"));
    std::string part(1, '?');
    const Result<std::size_t> got = co_await socket.recv_some(in(part)).result();
    EXPECT_TRUE(!got && got.error().os_errno() == ECONNRESET);
  };
  server.start(serve(server.reactor(), handle));
  EXPECT_TRUE(client.run(call(client.reactor(), talk)));
  EXPECT_TRUE(server.join());
}

TEST_F(SimNetworkTest, ConnectionsBreakByChance) {
  int broken = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SimOptions options;
    options.disconnect_ppm = 10'000;
    SimWorld world(seed, options);
    SimProcess server(world), client(world);
    auto handle = [&](Socket& socket) -> Task<> { (void)co_await receive_all(socket).result(); };
    const std::string hundred(100, 'x');
    auto talk = [&](Socket& socket) -> Task<> {
      for (int i = 0; i < 50; ++i) co_await socket.send_all(out(hundred));
    };
    server.start(serve(server.reactor(), handle));
    const Result<> talked = client.run(call(client.reactor(), talk));
    EXPECT_TRUE(talked || talked.error().code() == Errc::disconnected);
    broken += !talked;
    EXPECT_TRUE(server.join());
  }
  EXPECT_GT(broken, 5);
  EXPECT_LT(broken, 45);
}

TEST_F(SimNetworkTest, AStaleNameIsTakenOverAfterACrash) {
  int stale = 0;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SimWorld world(seed);
    auto wait = [](Socket&) -> Task<> { co_return; };
    {
      SimProcess server(world);
      server.start(serve(server.reactor(), wait));
      SimProcess other(world);
      EXPECT_TRUE(other.run(other.reactor().sleep(1s)));
      world.crash();
      EXPECT_FALSE(server.join());
    }
    stale += world.disk().locate("/server").node != nullptr;
    SimProcess server(world), client(world);
    server.start(serve(server.reactor(), wait));
    EXPECT_TRUE(client.run(call(client.reactor(), wait)));
    EXPECT_TRUE(server.join());
  }
  EXPECT_GT(stale, 0);
  EXPECT_LT(stale, 20);
}

TEST_F(SimNetworkTest, InetListenersAreFoundByAnyAddressOfTheirs) {
  SimWorld world(4);
  SimProcess process(world);
  Reactor& reactor = process.reactor();
  auto inet = [](std::string host, std::string port) {
    SocketAddress a;
    a.kind = SocketAddress::Kind::inet;
    a.host = std::move(host);
    a.port = std::move(port);
    return a;
  };
  auto main = [&]() -> Task<> {
    Listener any = co_await Listener::listen(reactor, inet("", "0"));
    Listener local = co_await Listener::listen(reactor, inet("localhost", "80"));
    EXPECT_NE(any.address().port, "0");
    const SocketAddress by_number = inet("127.0.0.1", "80"), by_any = inet("::1", any.address().port);
    const SocketAddress wrong = inet("::1", "80"), nonsense = inet("::1", "http");
    Socket first = co_await Socket::connect(reactor, by_number);
    Socket second = co_await Socket::connect(reactor, by_any);
    EXPECT_FALSE((co_await Socket::connect(reactor, wrong).result()).ok());
    EXPECT_FALSE((co_await Listener::listen(reactor, nonsense).result()).ok());
    co_await first.close();
    co_await second.close();
    co_await any.close();
    co_await local.close();
  };
  const Result<> ran = process.run(main());
  EXPECT_TRUE(ran) << ran.error().message();
}

}  // namespace
}  // namespace tidemark
