// Sockets: streams, their ends, cancellation, listeners and their names.
#include <filesystem>

#include "tests/contract/io/contract.hpp"

namespace tidemark::contract {
namespace {

class SocketContract : public IoContract {
 protected:
  Task<std::string> receive(Socket& socket, std::size_t size) {
    std::string text(size, '?');
    co_await socket.recv_all(in(text));
    co_return text;
  }
  Task<> let_others_run() {
    for (int i = 0; i < 10; ++i) co_await reactor.yield();
  }
  static SocketAddress loopback(std::string port = "0") {
    SocketAddress address;
    address.kind = SocketAddress::Kind::inet;
    address.host = "127.0.0.1";
    address.port = std::move(port);
    return address;
  }
  template <class Use>
  void check_pair(Use use) {
    check([&] { return with_pair(unix_address(), use); });
  }
};
TM_ON_EVERY_WORLD(SocketContract);

TEST_P(SocketContract, CarriesBytesBothWays) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    co_await near.send_all(out("question"));
    EXPECT_EQ(co_await receive(far, 8), "question");
    co_await far.send_all(out("answer"));
    EXPECT_EQ(co_await receive(near, 6), "answer");
  });
}

TEST_P(SocketContract, CarriesBytesOverTcp) {
  check([&]() -> Task<> {
    auto use = [&](Socket& near, Socket& far) -> Task<> {
      co_await near.send_all(out("question"));
      EXPECT_EQ(co_await receive(far, 8), "question");
    };
    co_await with_pair(loopback(), use);
  });
}

TEST_P(SocketContract, ReceivesWhatThereIs) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    co_await near.send_all(out("abc"));
    std::string text(10, '?');
    EXPECT_EQ(co_await far.recv_some(in(text)), 3u);
    EXPECT_EQ(text.substr(0, 3), "abc");
  });
}

TEST_P(SocketContract, AWaitingReceiverIsWoken) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    std::string got(5, '?');
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(far.recv_all(in(got)));
      co_await let_others_run();
      co_await near.send_all(out("he"));
      co_await let_others_run();
      co_await near.send_all(out("llo"));
      co_await group.join();
    };
    co_await with_group(reactor, both);
    EXPECT_EQ(got, "hello");
  });
}

TEST_P(SocketContract, GathersAndScatters) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    const std::string content = pattern(3000, 1);
    std::string copy = content, back(3000, '?');
    std::vector<iovec> from, into;
    for (std::size_t at = 0; at < 3000; at += 10) from.push_back({&copy[at], 10});
    for (std::size_t at = 0; at < 3000; at += 15) into.push_back({&back[at], 15});
    co_await near.send_all(Buffers(std::span<const iovec>(from)));
    co_await far.recv_all(Buffers(std::span<const iovec>(into)));
    EXPECT_EQ(back, content);
  });
}

Task<> send_in_chunks(Socket& socket, const std::string& text, std::size_t chunk) {
  for (std::size_t at = 0; at < text.size(); at += chunk)
    co_await socket.send_all(out(text).slice(at, std::min(chunk, text.size() - at)));
}

TEST_P(SocketContract, CarriesMegabytesBothWaysAtOnce) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    const std::string a = pattern(6 * MiB, 1), b = pattern(5 * MiB, 2);
    std::string got_a(a.size(), '?'), got_b(b.size(), '?');
    auto all = [&](TaskGroup& group) -> Task<> {
      group.spawn(send_in_chunks(near, a, 1'000'000));
      group.spawn(send_in_chunks(far, b, 77'777));
      group.spawn(near.recv_all(in(got_b)));
      group.spawn(far.recv_all(in(got_a)));
      co_await group.join();
    };
    co_await with_group(reactor, all);
    EXPECT_TRUE(got_a == a);
    EXPECT_TRUE(got_b == b);
  });
}

TEST_P(SocketContract, TheEndOfTheStreamComesAfterItsBytes) {
  check([&]() -> Task<> {
    auto use = [&](Socket& near, Socket& far) -> Task<> {
      co_await near.send_all(out("last"));
      co_await near.close();
      EXPECT_EQ(co_await receive(far, 4), "last");
      std::string text(1, '?');
      EXPECT_EQ(co_await far.recv_some(in(text)), 0u);
      expect_error(co_await far.recv_all(in(text)).result(), Errc::disconnected);
    };
    co_await with_pair(unix_address(), use);
    co_await with_pair(loopback(), use);
  });
}

TEST_P(SocketContract, SendingToNobodyIsAnError) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    co_await far.close();
    const std::string text(MiB, 'x');
    expect_error(co_await near.send_all(out(text)).result(), Errc::disconnected);
  });
}

TEST_P(SocketContract, ShutdownWakesWhoWaits) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    std::string text(1, '?');
    std::size_t got = 99;
    auto receive_some = [&](Socket& socket) -> Task<> {
      got = co_await socket.recv_some(in(text));
    };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(receive_some(near));
      co_await let_others_run();
      EXPECT_EQ(got, 99u);
      co_await near.shutdown();
      co_await group.join();
    };
    co_await with_group(reactor, both);
    EXPECT_EQ(got, 0u);
    EXPECT_EQ(co_await far.recv_some(in(text)), 0u);
  });
}

TEST_P(SocketContract, ShutdownWakesASenderThatIsStuck) {
  check_pair([&](Socket& near, Socket&) -> Task<> {
    const std::string text(32 * MiB, 'x');
    Result<> sent;
    auto send = [&]() -> Task<> { sent = co_await near.send_all(out(text)).result(); };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(send());
      co_await let_others_run();
      EXPECT_EQ(group.running(), 1u);
      co_await near.shutdown();
      co_await group.join();
    };
    co_await with_group(reactor, both);
    expect_error(sent, Errc::disconnected);
  });
}

TEST_P(SocketContract, AReceiverThatWaitsIsCancelled) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    CancelSource source;
    std::string text(4, '?');
    Result<std::size_t> got = std::size_t{99};
    auto receive_some = [&]() -> Task<> {
      got = co_await far.recv_some(in(text), source.token()).result();
    };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(receive_some());
      co_await let_others_run();
      EXPECT_EQ(group.running(), 1u);
      source.request();
      co_await group.join();
    };
    co_await with_group(reactor, both);
    expect_error(got, Errc::cancelled);
    expect_error(co_await far.recv_some(in(text), source.token()).result(), Errc::cancelled);
    co_await near.send_all(out("live"));         // the socket is as good as before
    EXPECT_EQ(co_await receive(far, 4), "live");
  });
}

TEST_P(SocketContract, ASenderThatIsStuckIsCancelled) {
  check_pair([&](Socket& near, Socket&) -> Task<> {
    const std::string text(32 * MiB, 'x');
    CancelSource source;
    Result<> sent;
    auto send = [&]() -> Task<> {
      sent = co_await near.send_all(out(text), source.token()).result();
    };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(send());
      co_await let_others_run();
      source.request();
      co_await group.join();
    };
    co_await with_group(reactor, both);
    expect_error(sent, Errc::cancelled);
  });
}

// Whoever has just taken what is to be sent, and is about to wait for room, has not heard of it.
TEST_P(SocketContract, ASenderIsCancelledWhateverItIsAtJustThen) {
  check_pair([&](Socket& near, Socket&) -> Task<> {
    const std::string text(1 * MiB, 'x');
    for (int round = 0; round < 400; ++round) {
      CancelSource source;
      Result<> sent;
      auto send = [&]() -> Task<> { sent = co_await near.send_all(out(text), source.token()).result(); };
      auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(send());
        for (int turn = 0; turn < round % 8; ++turn) co_await reactor.yield();
        source.request();
        co_await group.join();
      };
      co_await with_group(reactor, both);
      expect_error(sent, Errc::cancelled);
    }
  });
}

// More at once than a queue has room for, of which some have just been answered: later ones, at the same places, are not touched.
TEST_P(SocketContract, WhatHasEndedIsNotCancelledAgain) {
  constexpr std::size_t many = 400, answered = 40;
  check([&]() -> Task<> {
    std::vector<Socket> near(many), far(many);
    for (std::size_t i = 0; i < many; ++i) co_await connect_pair(unix_address(), near[i], far[i]);
    std::size_t got = 0, cancelled = 0;
    auto receive_one = [&](Socket& from, CancelToken token) -> Task<> {
      std::string text(1, '?');
      const Result<std::size_t> received = co_await from.recv_some(in(text), token).result();
      if (received) ++got;
      else if (received.error().code() == Errc::cancelled) ++cancelled;
    };
    CancelSource source;
    auto first = [&](TaskGroup& group) -> Task<> {
      for (Socket& socket : far) group.spawn(receive_one(socket, source.token()));
      co_await let_others_run();
      for (std::size_t i = 0; i < answered; ++i) co_await near[i].send_all(out("x"));
      source.request();
      co_await group.join();
    };
    co_await with_group(reactor, first);
    EXPECT_EQ(got + cancelled, many);
    const std::size_t taken = std::exchange(got, 0);
    cancelled = 0;
    auto second = [&](TaskGroup& group) -> Task<> {
      for (Socket& socket : far) group.spawn(receive_one(socket, CancelToken()));
      co_await reactor.sleep(std::chrono::milliseconds(20));
      for (Socket& socket : near) co_await socket.send_all(out("y"));
      co_await group.join();
    };
    co_await with_group(reactor, second);
    EXPECT_EQ(got, many);
    EXPECT_EQ(cancelled, 0u);
    EXPECT_LE(taken, answered);
    for (Socket& socket : near) co_await socket.close();
    for (Socket& socket : far) co_await socket.close();
  });
}

TEST_P(SocketContract, CancellingAReceiverLosesNoByte) {
  check_pair([&](Socket& near, Socket& far) -> Task<> {
    for (int round = 0; round < 200; ++round) {
      CancelSource source;
      std::string text(1, '?');
      const std::string sent(1, static_cast<char>('a' + round % 26));
      Result<std::size_t> got = std::size_t{99};
      auto receive_some = [&]() -> Task<> {
        got = co_await far.recv_some(in(text), source.token()).result();
      };
      auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(receive_some());
        for (int i = 0; i < round % 4; ++i) co_await reactor.yield();
        co_await near.send_all(out(sent));
        for (int i = 0; i < round % 3; ++i) co_await reactor.yield();
        source.request();
        co_await group.join();
      };
      co_await with_group(reactor, both);
      if (!got) text = co_await receive(far, 1);
      EXPECT_EQ(text, sent) << "round " << round;
    }
  });
}

TEST_P(SocketContract, AnAcceptThatWaitsIsCancelled) {
  check([&]() -> Task<> {
    auto use = [&](Listener& listener) -> Task<> {
      CancelSource source;
      bool cancelled = false;
      auto accept = [&]() -> Task<> {
        const Result<Socket> outcome = co_await listener.accept(source.token()).result();
        cancelled = !outcome && outcome.error().code() == Errc::cancelled;
      };
      auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(accept());
        co_await let_others_run();
        EXPECT_FALSE(cancelled);
        source.request();
        co_await group.join();
      };
      co_await with_group(reactor, both);
      EXPECT_TRUE(cancelled);
    };
    co_await with_listener(unix_address(), use);
  });
}

TEST_P(SocketContract, OneListenerTakesManyConnections) {
  check([&]() -> Task<> {
    constexpr std::size_t count = 50;
    std::vector<Socket> accepted, connected;
    auto use = [&](Listener& listener) -> Task<> {
      auto accept_all = [&]() -> Task<> {
        for (std::size_t i = 0; i < count; ++i) accepted.push_back(co_await listener.accept());
      };
      auto connect_one = [&]() -> Task<> {
        connected.push_back(co_await Socket::connect(reactor, listener.address()));
      };
      auto all = [&](TaskGroup& group) -> Task<> {
        group.spawn(accept_all());
        for (std::size_t i = 0; i < count; ++i) group.spawn(connect_one());
        co_await group.join();
      };
      co_await with_group(reactor, all);
    };
    co_await with_listener(unix_address(), use);
    for (Socket& socket : connected) co_await socket.send_all(out("hello"));
    for (Socket& socket : accepted) EXPECT_EQ(co_await receive(socket, 5), "hello");
    for (Socket& socket : connected) co_await socket.close();
    for (Socket& socket : accepted) co_await socket.close();
  });
}

std::ptrdiff_t threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

TEST_P(SocketContract, IdleConnectionsCostNoThread) {
  if (!world->has_threads()) GTEST_SKIP() << "one thread";
  check([&]() -> Task<> {
    auto use = [&](Listener& listener) -> Task<> {
      std::vector<Socket> sockets;
      for (int i = 0; i < 100; ++i) {
        sockets.push_back(co_await Socket::connect(reactor, listener.address()));
        sockets.push_back(co_await listener.accept());
      }
      std::string byte(1, '?');
      CancelSource source;
      const std::ptrdiff_t before = threads();
      auto all = [&](TaskGroup& group) -> Task<> {
        auto receive = [&](Socket& socket) -> Task<> {
          const Result<std::size_t> got = co_await socket.recv_some(in(byte), source.token()).result();
          expect_error(got, Errc::cancelled);
        };
        for (Socket& socket : sockets) group.spawn(receive(socket));
        co_await let_others_run();
        EXPECT_EQ(group.running(), 200u);
        EXPECT_EQ(threads(), before);
        source.request();
        co_await group.join();
      };
      co_await with_group(reactor, all);
      for (Socket& socket : sockets) co_await socket.close();
    };
    co_await with_listener(unix_address(), use);
  });
}

TEST_P(SocketContract, ConnectingToNobodyIsAnError) {
  check([&]() -> Task<> {
    const Result<Socket> nobody = co_await Socket::connect(reactor, unix_address("none")).result();
    expect_error(nobody, Errc::not_found);
    EXPECT_EQ(nobody.error().message(),
              "connect to '" + path("none") + "': No such file or directory");
    SocketAddress address = unix_address(std::string(200, 'x'));
    expect_error(co_await Socket::connect(reactor, address).result(), Errc::io);   // too long
    expect_error(co_await Listener::listen(reactor, address).result(), Errc::io);
    address.path.clear();
    expect_error(co_await Listener::listen(reactor, address).result(), Errc::invalid_argument);
  });
}

TEST_P(SocketContract, TcpPortsAreFilledInAndRefused) {
  check([&]() -> Task<> {
    std::string port;
    auto use = [&](Listener& listener) -> Task<> {
      port = listener.address().port;
      EXPECT_NE(port, "0");
      EXPECT_EQ(listener.address().describe(), "127.0.0.1:" + port);
      expect_error(co_await Listener::listen(reactor, loopback(port)).result(), Errc::busy);
    };
    co_await with_listener(loopback(), use);
    expect_error(co_await Socket::connect(reactor, loopback(port)).result(), Errc::disconnected);
  });
}

TEST_P(SocketContract, AListenerOwnsItsName) {
  check([&]() -> Task<> {
    auto use = [&](Listener&) -> Task<> {
      EXPECT_TRUE(co_await fs::exists(reactor, path("socket")));
      const Result<Listener> second = co_await Listener::listen(reactor, unix_address()).result();
      expect_error(second, Errc::busy);
      EXPECT_EQ(second.error().message(),
                "listen on '" + path("socket") + "': Address already in use");
    };
    co_await with_listener(unix_address(), use);
    EXPECT_FALSE(co_await fs::exists(reactor, path("socket")));
  });
}

TEST_P(SocketContract, AStaleSocketIsReplacedAFileIsNot) {
  check([&]() -> Task<> {
    auto keep_the_name = [&](Listener&) -> Task<> {
      IoOp::Extra extra;
      extra.path = path("socket");
      extra.path2 = path("stale");
      IoOp link(IoOp::Kind::link);
      link.extra = &extra;
      const std::int64_t linked = co_await reactor.perform(link);
      EXPECT_EQ(linked, 0);
    };
    co_await with_listener(unix_address(), keep_the_name);
    const Result<Socket> dead = co_await Socket::connect(reactor, unix_address("stale")).result();
    expect_error(dead, Errc::disconnected);
    auto greet = [&](Socket& near, Socket& far) -> Task<> {
      co_await near.send_all(out("hi"));
      EXPECT_EQ(co_await receive(far, 2), "hi");
    };
    co_await with_pair(unix_address("stale"), greet);

    co_await fs::replace(reactor, path("file"), "precious");
    expect_error(co_await Listener::listen(reactor, unix_address("file")).result(), Errc::busy);
    EXPECT_EQ(co_await fs::read_all(reactor, path("file"), 100), "precious");
  });
}

}  // namespace
}  // namespace tidemark::contract
