// The reactor on a backend: time, order, wake-ups, work on other threads, randomness.
#include <set>
#include <thread>

#include "tests/contract/io/contract.hpp"

namespace tidemark::contract {
namespace {

using namespace std::chrono_literals;

class ReactorContract : public IoContract {
 protected:
  Task<> note_after(Duration delay, int number, std::vector<int>& order) {
    co_await reactor.sleep(delay);
    order.push_back(number);
  }
};
TM_ON_EVERY_WORLD(ReactorContract);

TEST_P(ReactorContract, SleepersWakeInTheOrderOfTheirTimes) {
  check([&]() -> Task<> {
    std::vector<int> order;
    auto all = [&](TaskGroup& group) -> Task<> {
      group.spawn(note_after(30ms, 4, order));
      group.spawn(note_after(10ms, 2, order));
      group.spawn(note_after(20ms, 3, order));
      group.spawn(note_after(0ms, 1, order));
      co_await group.join();
    };
    const Instant start = reactor.now();
    co_await with_group(reactor, all);
    const std::vector<int> expected = {1, 2, 3, 4};
    EXPECT_EQ(order, expected);
    EXPECT_GE(reactor.now() - start, 30ms);
  });
}

TEST_P(ReactorContract, SleepersOfOneTimeWakeInTheOrderTheyCame) {
  check([&]() -> Task<> {
    std::vector<int> order;
    const Instant when = reactor.now() + 5ms;
    auto note = [&](int number) -> Task<> {
      co_await reactor.sleep_until(when);
      order.push_back(number);
    };
    auto all = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < 5; ++i) group.spawn(note(i));
      co_await group.join();
    };
    co_await with_group(reactor, all);
    const std::vector<int> expected = {0, 1, 2, 3, 4};
    EXPECT_EQ(order, expected);
  });
}

TEST_P(ReactorContract, ASleepIsCancelled) {
  check([&]() -> Task<> {
    auto all = [&](TaskGroup& group) -> Task<> {
      group.spawn(reactor.sleep(24h, group.token()));
      co_await reactor.sleep(1ms);
      group.cancel();
      expect_error(co_await group.join().result(), Errc::cancelled);
    };
    co_await with_group(reactor, all);
    CancelSource source;
    source.request();
    expect_error(co_await reactor.sleep(24h, source.token()).result(), Errc::cancelled);
  });
}

TEST_P(ReactorContract, APastDeadlineDoesNotWait) {
  check([&]() -> Task<> {
    co_await reactor.sleep(-1h);
    co_await reactor.sleep_until(Instant::min());
  });
}

TEST_P(ReactorContract, TimersRunBesideBusyCoroutines) {
  check([&]() -> Task<> {
    bool slept = false;
    auto sleep = [&]() -> Task<> {
      co_await reactor.sleep(2ms);
      slept = true;
    };
    auto all = [&](TaskGroup& group) -> Task<> {
      group.spawn(sleep());
      while (!slept) {
        co_await reactor.yield();
        if (!world->has_threads()) co_await reactor.sleep(1us);   // a virtual clock needs a reason
      }
    };
    co_await with_group(reactor, all);
  });
}

TEST_P(ReactorContract, CompletionsArriveBesideBusyCoroutines) {
  check([&]() -> Task<> {
    auto use = [&](Socket& near, Socket& far) -> Task<> {
      std::string text(2, '?');
      bool got = false;
      auto receive = [&]() -> Task<> {
        co_await far.recv_all(in(text));
        got = true;
      };
      auto all = [&](TaskGroup& group) -> Task<> {
        group.spawn(receive());
        co_await reactor.yield();
        co_await near.send_all(out("ok"));
        while (!got) co_await reactor.yield();
      };
      co_await with_group(reactor, all);
      EXPECT_EQ(text, "ok");
    };
    co_await with_pair(unix_address(), use);
  });
}

TEST_P(ReactorContract, WorkIsDoneElsewhere) {
  check([&]() -> Task<> {
    std::vector<int> results(100);
    std::set<std::thread::id> threads;
    std::mutex mutex;
    auto work = [&](int i) -> Task<> {
      auto square = [&results, &threads, &mutex, i] {
        results[static_cast<std::size_t>(i)] = i * i;
        std::lock_guard lock(mutex);
        threads.insert(std::this_thread::get_id());
      };
      co_await reactor.offload(square);
    };
    auto all = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < 100; ++i) group.spawn(work(i));
      co_await group.join();
    };
    co_await with_group(reactor, all);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(results[static_cast<std::size_t>(i)], i * i);
    EXPECT_EQ(threads.contains(std::this_thread::get_id()), !world->has_threads());
  });
}

TEST_P(ReactorContract, APostedCallRuns) {
  int calls = 0;
  Event done(reactor);
  reactor.post_remote([&] { ++calls; });
  reactor.post_remote([&] { done.set(); });
  check([&] { return done.wait(); });
  EXPECT_EQ(calls, 1);
}

TEST_P(ReactorContract, AnotherThreadWakesASleepingReactor) {
  if (!world->has_threads()) GTEST_SKIP() << "one thread";
  constexpr int rounds = 2000;
  int calls = 0;
  Event done(reactor);
  std::thread other([&] {
    for (int i = 0; i < rounds; ++i)
      reactor.post_remote([&] {
        if (++calls == rounds) done.set();
      });
  });
  check([&] { return done.wait(); });
  other.join();
  EXPECT_EQ(calls, rounds);
}

TEST_P(ReactorContract, TwoReactorsPlayPingPong) {
  if (!world->has_threads()) GTEST_SKIP() << "one thread";
  constexpr int rounds = 500;
  const auto other_world = GetParam().make();
  Reactor other(other_world->backend());
  Event mine(reactor), theirs(other);
  int hits = 0;
  auto play = [](Event& ball, Reactor& to, Event& next, int& count) -> Task<> {
    for (int i = 0; i < rounds; ++i) {
      co_await ball.wait();
      ball.reset();
      ++count;
      to.post_remote([&next] { next.set(); });
    }
  };
  int their_hits = 0;
  std::thread thread([&] { (void)other.run(play(theirs, reactor, mine, their_hits)); });
  reactor.post_remote([&] { mine.set(); });
  check([&] { return play(mine, other, theirs, hits); });
  thread.join();
  EXPECT_EQ(hits, rounds);
  EXPECT_EQ(their_hits, rounds);
}

TEST_P(ReactorContract, ClocksGoForward) {
  Instant before = reactor.now();
  for (int i = 0; i < 1000; ++i) {
    const Instant now = reactor.now();
    EXPECT_GE(now, before);
    before = now;
  }
  EXPECT_GT(reactor.backend().wall_clock_ns(), std::int64_t{1'000'000'000} * 1'000'000'000);
}

TEST_P(ReactorContract, RandomNumbersDiffer) {
  std::set<std::uint64_t> numbers;
  for (int i = 0; i < 100; ++i) numbers.insert(reactor.backend().random());
  EXPECT_EQ(numbers.size(), 100u);
}

TEST_P(ReactorContract, EverythingAtOnce) {
  check([&]() -> Task<> {
    std::string text(4, '?');
    int done = 0;
    auto use = [&](Socket& near, Socket& far) -> Task<> {
      auto file_work = [&](int i) -> Task<> {
        const std::string name = "file" + std::to_string(i);
        co_await fs::replace(reactor, path(name), name);
        EXPECT_EQ(co_await fs::read_all(reactor, path(name), 100), name);
        ++done;
      };
      auto sleep = [&](int i) -> Task<> {
        co_await reactor.sleep(i * 100us);
        ++done;
      };
      auto all = [&](TaskGroup& group) -> Task<> {
        group.spawn(far.recv_all(in(text)));
        for (int i = 0; i < 20; ++i) {
          group.spawn(file_work(i));
          group.spawn(sleep(i));
          group.spawn(reactor.offload([] {}));
        }
        co_await near.send_all(out("done"));
        co_await group.join();
      };
      co_await with_group(reactor, all);
    };
    co_await with_pair(unix_address(), use);
    EXPECT_EQ(done, 40);
    EXPECT_EQ(text, "done");
  });
}

}  // namespace
}  // namespace tidemark::contract
