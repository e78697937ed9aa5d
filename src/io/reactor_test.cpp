// The reactor on a backend that the test plays: what is tried, what is submitted, what is cancelled.
#include "io/reactor.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "task/group.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

class PlayedBackend final : public IoBackend {
 public:
  std::string_view name() const noexcept override { return "played"; }
  Instant now() noexcept override { return time; }
  std::int64_t wall_clock_ns() noexcept override { return 0; }
  std::uint64_t random() noexcept override { return 4; }
  bool try_now(IoOp& op) noexcept override {
    ++tried;
    if (!inline_works) return false;
    op.result = static_cast<std::int64_t>(op.length);
    return true;
  }
  void submit(IoOp& op) override {
    ++submitted;
    flying.push_back(&op);
  }
  void cancel(IoOp& op) override {
    ++cancelled;
    ASSERT_TRUE(std::erase(flying, &op));
    op.result = -ECANCELED;
    landed.push_back(&op);
  }
  // Completes everything in flight at once; else the clock jumps to the deadline.
  void wait(Instant deadline, std::vector<IoOp*>& completed) override {
    ++waits;
    for (IoOp* op : flying) op->result = 77;
    landed.insert(landed.end(), flying.begin(), flying.end());
    flying.clear();
    if (landed.empty() && deadline != no_deadline) time = std::max(time, deadline);
    completed.insert(completed.end(), landed.begin(), landed.end());
    landed.clear();
  }
  void wake() noexcept override { ++wakes; }

  Instant time{1000};
  bool inline_works = false;
  int tried = 0, submitted = 0, cancelled = 0, waits = 0, wakes = 0;
  std::vector<IoOp*> flying, landed;
};

class ReactorTest : public testing::Test {
 protected:
  Task<std::int64_t> read(std::uint64_t length) {
    IoOp op(IoOp::Kind::read);
    op.length = length;
    co_return co_await reactor.perform(op);
  }
  Task<std::int64_t> read(CancelToken token) {
    IoOp op(IoOp::Kind::recv);
    co_return co_await reactor.perform(op, token);
  }
  PlayedBackend backend;
  Reactor reactor{backend};
};

TEST_F(ReactorTest, WhatCannotBeDoneAtOnceIsSubmitted) {
  const Result<std::int64_t> result = reactor.run(read(1));
  EXPECT_EQ(*result, 77);
  EXPECT_EQ(backend.submitted, 1);
}

TEST_F(ReactorTest, WhatCanBeDoneAtOnceIsNot) {
  backend.inline_works = true;
  auto body = [&]() -> Task<> {
    for (int i = 0; i < 100; ++i) EXPECT_EQ(co_await read(1), 1);
  };
  EXPECT_TRUE(reactor.run(body()));
  EXPECT_EQ(backend.submitted, 0);
}

TEST_F(ReactorTest, NobodyHoldsTheThreadWithWhatCanBeDoneAtOnce) {
  backend.inline_works = true;
  bool done = false;
  std::uint64_t reads = 0;
  auto greedy = [&]() -> Task<> {
    while (!done) {
      co_await read(64 * KiB);
      ++reads;
    }
  };
  auto modest = [&]() -> Task<> {
    for (int i = 0; i < 10; ++i) co_await reactor.yield();
    done = true;
  };
  auto both = [&](TaskGroup& group) -> Task<> {
    group.spawn(greedy());
    group.spawn(modest());
    co_await group.join();
  };
  EXPECT_TRUE(reactor.run(with_group(reactor, both)));
  EXPECT_LT(reads, 2000u);
  EXPECT_EQ(backend.submitted, 0);               // they waited for a turn, not for a thread
}

TEST_F(ReactorTest, ADeferredOperationIsCancelled) {
  backend.inline_works = true;
  CancelSource source;
  Result<std::int64_t> outcome = std::int64_t{0};
  auto waiting = [&]() -> Task<> { outcome = co_await read(source.token()).result(); };
  auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(waiting());                      // before the first turn there is no budget
    source.request();
    co_await group.join();
  };
  EXPECT_TRUE(reactor.run(with_group(reactor, body)));
  EXPECT_EQ(*outcome, -ECANCELED);
  EXPECT_EQ(backend.tried + backend.submitted, 0);
}

TEST_F(ReactorTest, CancellingIsForWhatIsInFlight) {
  CancelSource source;
  std::vector<std::int64_t> results;
  auto receive = [&]() -> Task<> { results.push_back(co_await read(source.token())); };
  auto body = [&](TaskGroup& group) -> Task<> {
    co_await reactor.yield();                    // into a turn, which has a budget
    group.spawn(receive());
    EXPECT_EQ(backend.submitted, 1);
    source.request();
    EXPECT_EQ(backend.cancelled, 1);
    co_await receive();                          // asked already: not even tried
    EXPECT_EQ(backend.submitted, 1);
    co_await group.join();
  };
  EXPECT_TRUE(reactor.run(with_group(reactor, body)));
  EXPECT_EQ(results, (std::vector<std::int64_t>{-ECANCELED, -ECANCELED}));
}

TEST_F(ReactorTest, WhatHasCompletedIsNotCancelledAnyMore) {
  CancelSource source;
  std::vector<std::int64_t> results;
  auto receive_and_ask = [&]() -> Task<> {
    results.push_back(co_await read(source.token()));
    source.request();                            // the other has completed in the same turn
  };
  auto body = [&](TaskGroup& group) -> Task<> {
    co_await reactor.yield();
    group.spawn(receive_and_ask());
    group.spawn(receive_and_ask());
    co_await group.join();
  };
  EXPECT_TRUE(reactor.run(with_group(reactor, body)));
  EXPECT_EQ(results, (std::vector<std::int64_t>{77, 77}));
  EXPECT_EQ(backend.cancelled, 0);
}

TEST_F(ReactorTest, SleepsUntilTheTimerAndNoLonger) {
  auto body = [&]() -> Task<> { co_await reactor.sleep(5ms); };
  EXPECT_TRUE(reactor.run(body()));
  EXPECT_EQ(backend.time, Instant(1000) + 5ms);
}

TEST_F(ReactorTest, CallsFromElsewhereWake) {
  bool called = false;
  reactor.post_remote([&] { called = true; });
  EXPECT_EQ(backend.wakes, 1);
  EXPECT_FALSE(called);
  reactor.turn();
  EXPECT_TRUE(called);
}

using ReactorDeathTest = ReactorTest;
TEST_F(ReactorDeathTest, AFrameWithIoInFlightIsNotDestroyed) {
  EXPECT_DEATH(
      {
        auto handle = read(1).release();
        handle.resume();
        handle.destroy();
      },
      "assertion failed");
}

}  // namespace
}  // namespace tidemark
