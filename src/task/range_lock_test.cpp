#include "task/range_lock.hpp"

#include <memory>
#include <vector>

#include "base/random.hpp"
#include "task/sync.hpp"
#include "task/testing.hpp"

namespace tidemark {
namespace {

using Mode = RangeLock::Mode;
using Order = std::vector<int>;

class RangeLockTest : public testing::Test {
 protected:
  ManualExecutor executor;
  RangeLock lock{executor};
  Event release{executor};
  Order order;

  Task<> hold(Range range, Mode mode, int number, Event& until) {
    auto guard = lock.hold(range, mode);
    co_await guard;
    order.push_back(number);
    co_await until.wait();
  }
  Started<> start(Range range, Mode mode, int number) {
    return Started<>(hold(range, mode, number, release));
  }
  void end() {
    release.set();
    executor.run();
    EXPECT_TRUE(lock.idle());
  }
};

TEST_F(RangeLockTest, ReadersShareWritersDoNot) {
  const auto reader = start({0, 10}, Mode::shared, 1), other = start({5, 10}, Mode::shared, 2);
  const auto writer = start({9, 1}, Mode::exclusive, 3);
  EXPECT_EQ(order, (Order{1, 2}));
  end();
  EXPECT_EQ(order, (Order{1, 2, 3}));
}

TEST_F(RangeLockTest, RangesThatDoNotMeetAreFree) {
  const auto a = start({0, 10}, Mode::exclusive, 1), b = start({10, 10}, Mode::exclusive, 2);
  EXPECT_EQ(order, (Order{1, 2}));
  end();
}

TEST_F(RangeLockTest, AReaderDoesNotOvertakeAWaitingWriter) {
  const auto first = start({0, 10}, Mode::shared, 1), writer = start({0, 10}, Mode::exclusive, 2);
  const auto late = start({0, 10}, Mode::shared, 3), elsewhere = start({20, 10}, Mode::shared, 4);
  EXPECT_EQ(order, (Order{1, 4}));
  end();
  EXPECT_EQ(order, (Order{1, 4, 2, 3}));
}

TEST_F(RangeLockTest, UnlockingGrantsOnlyWhatIsFree) {
  Event first(executor), second(executor);
  const Started<> a(hold({0, 10}, Mode::exclusive, 1, first));
  const Started<> b(hold({10, 10}, Mode::exclusive, 2, second));
  const auto both = start({5, 10}, Mode::exclusive, 3), left = start({0, 5}, Mode::exclusive, 4);
  first.set();
  executor.run();
  EXPECT_EQ(order, (Order{1, 2, 4}));            // 3 still waits for 2
  second.set();
  executor.run();
  EXPECT_EQ(order, (Order{1, 2, 4, 3}));
  end();
}

TEST_F(RangeLockTest, AWithdrawnWaiterBlocksNobody) {
  const auto reader = start({0, 10}, Mode::shared, 1);
  auto writer = std::make_unique<Started<>>(hold({0, 10}, Mode::exclusive, 2, release));
  const auto late = start({0, 10}, Mode::shared, 3);
  EXPECT_EQ(order, Order{1});
  writer.reset();
  executor.run();
  EXPECT_EQ(order, (Order{1, 3}));
  end();
}

TEST_F(RangeLockTest, AGuardUnlocksOnce) {
  auto body = [&]() -> Task<> {
    auto guard = lock.hold({0, 1}, Mode::exclusive);
    co_await guard;
    EXPECT_FALSE(lock.idle());
    guard.unlock();
    guard.unlock();
    EXPECT_TRUE(lock.idle());
    auto unused = lock.hold({0, 1}, Mode::exclusive);
  };
  const Started<> task(body());
  EXPECT_TRUE(task.succeeded());
}

// Many holders of random ranges: never two that conflict at once, and all get their turn.
TEST_F(RangeLockTest, HoldsForRandomRanges) {
  struct Held {
    int number;
    Range range;
    Mode mode;
  };
  Prng prng(1);
  std::vector<Held> held;
  int finished = 0;
  auto worker = [&](int number, Range range, Mode mode, std::uint64_t turns) -> Task<> {
    auto guard = lock.hold(range, mode);
    co_await guard;
    for (const Held& other : held)
      EXPECT_FALSE(other.range.overlaps(range) &&
                   (other.mode == Mode::exclusive || mode == Mode::exclusive));
    held.push_back({number, range, mode});
    while (turns-- != 0) co_await executor.yield();
    std::erase_if(held, [&](const Held& h) { return h.number == number; });
    ++finished;
  };
  std::vector<std::unique_ptr<Started<>>> tasks;
  for (int i = 0; i < 500; ++i) {
    const Range range = {prng.below(1000) * 10, 1 + prng.below(200)};
    const Mode mode = prng.chance(1, 2) ? Mode::shared : Mode::exclusive;
    tasks.push_back(std::make_unique<Started<>>(worker(i, range, mode, prng.below(4))));
    if (prng.chance(1, 3)) executor.step();
  }
  executor.run();
  EXPECT_EQ(finished, 500);
  EXPECT_TRUE(lock.idle());
}

}  // namespace
}  // namespace tidemark
