// Leaky buckets: how much gets through in which time; and requests that wait for them.
#include "filter/throttle.hpp"

#include "filter/blkdebug.hpp"
#include "tests/support/test_disks.hpp"

namespace tidemark::test {
namespace {

using namespace std::chrono_literals;
using Kind = ThrottleLimits::Kind;

// Requests of `bytes`, one after the other, until `end`: how many.
std::uint64_t run(ThrottleGroup& group, bool is_write, std::uint64_t bytes, Instant from, Instant end) {
  std::uint64_t done = 0;
  for (Instant now = from; now < end;) {
    const Duration wait = group.charge(is_write, bytes, now);
    if (wait == Duration{}) ++done;
    else now += wait;
  }
  return done;
}

TEST(ThrottleGroup, WithoutLimitsNobodyWaits) {
  ThrottleGroup group;
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(group.charge(true, 1 << 20, Instant(0)), Duration{});
}

TEST(ThrottleGroup, OperationsASecond) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::iops_total].average = 100;
  group.set(limits);
  const std::uint64_t done = run(group, false, 4096, 0s, 10s);
  EXPECT_GE(done, 1000u);
  EXPECT_LE(done, 1102u);                        // and what the bucket holds
  EXPECT_NEAR(static_cast<double>(run(group, true, 4096, 10s, 20s)), 1000.0, 2.0);
}

TEST(ThrottleGroup, BytesASecondOfWritesOnly) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::bps_write].average = 1 << 20;
  group.set(limits);
  EXPECT_NEAR(static_cast<double>(run(group, true, 4096, 0s, 10s)), 11 * 256.0, 2.0);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(group.charge(false, 1 << 20, 10s), Duration{});
}

TEST(ThrottleGroup, BurstsAsLongAsTheyMayBe) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::iops_total] = {100, 2000, 60};
  group.set(limits);
  EXPECT_NEAR(static_cast<double>(run(group, true, 4096, 0s, 60s)), 120'000.0, 300.0);
  run(group, true, 4096, 60s, 70s);              // it leaks meanwhile, so a bit longer
  EXPECT_NEAR(static_cast<double>(run(group, true, 4096, 70s, 80s)), 1000.0, 2.0);
}

TEST(ThrottleGroup, LargeRequestsCountAsSeveral) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::iops_total].average = 100;
  limits.iops_size = 4096;
  group.set(limits);
  run(group, true, 8192, 0s, 10s);
  EXPECT_NEAR(static_cast<double>(run(group, true, 8192, 10s, 20s)), 500.0, 2.0);
  EXPECT_NEAR(static_cast<double>(run(group, true, 512, 20s, 30s)), 1000.0, 2.0);
}

TEST(ThrottleGroup, LimitsThatChangeCountAtOnce) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::iops_total].average = 1;
  group.set(limits);
  run(group, true, 4096, 0s, 10s);
  while (group.charge(true, 4096, 10s) == Duration{}) {}
  EXPECT_GT(group.charge(true, 4096, 10s), Duration{});
  group.set({});
  EXPECT_EQ(group.charge(true, 4096, 10s), Duration{});
}

TEST(ThrottleGroup, WhoWaitsByOldLimitsIsHelpedByHigherOnes) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::bps_total].average = 1000;
  group.set(limits);
  EXPECT_EQ(group.charge(true, 1 * GiB, 0s), Duration{});
  EXPECT_GT(group.charge(true, 1, 1s), 1h);
  limits.of[Kind::bps_total].average = 1000000000;
  group.set(limits);
  EXPECT_EQ(group.charge(true, 1, 1s), Duration{});
}

TEST(ThrottleGroup, ARequestOfAnySizeIsCountedWithoutOverflow) {
  ThrottleGroup group;
  ThrottleLimits limits;
  limits.of[Kind::bps_total].average = 1;
  group.set(limits);
  EXPECT_EQ(group.charge(true, ~std::uint64_t{0}, 0s), Duration{});
  EXPECT_GT(group.charge(true, 1, 0s), 1h);
}

// A disk "above" on a throttled one that lets one request a second begin, and a guest with many.
class ThrottledTest : public testing::Test {
 protected:
  static constexpr int requests = 100;
  Disks disks{1};
  std::shared_ptr<ThrottleGroup> group = std::make_shared<ThrottleGroup>();
  Content data = Content(4 * KiB, std::byte{1});
  Edge* edge = nullptr;
  BlockNode* throttled = nullptr;

  ThrottledTest() {
    ThrottleLimits limits;
    limits.of[Kind::iops_total].average = 1;
    group->set(limits);
    BlockNode& memory = disks.add("memory", *open_memory({MiB}));
    throttled = &disks.add("throttled", open_throttle(*Edge::attach(memory, Role::filtered, {}, "throttle"), group));
    edge = &disks.attach(disks.add("above", *open_fault({throttled, {}, 1})));
  }
  Task<> requests_while(std::function<Task<>()> what) {
    const auto body = [&](TaskGroup& tasks) -> Task<> {
      for (int i = 0; i < requests; ++i) tasks.spawn(edge->write(0, Buffers::of_const(data)));
      co_await disks.process.reactor().sleep(1s);
      co_await what();
      co_await tasks.join();
    };
    co_await with_group(disks.process.reactor(), body);
  }
};

TEST_F(ThrottledTest, WaitsForItsTurn) {
  disks.run(requests_while([]() -> Task<> { co_return; }));
  EXPECT_GE(disks.world.now(), 98s);
}

TEST_F(ThrottledTest, NobodyWaitsWhileWhatIsAboveIsToRest) {
  disks.run(requests_while([&]() -> Task<> {
    const auto drained = co_await disks.graph.drain(disks.node("above"));
    EXPECT_LT(disks.world.now(), 3s);
  }));
  EXPECT_LT(disks.world.now(), 3s);
}

TEST_F(ThrottledTest, NobodyWaitsWhenWhatIsInFlightIsToEnd) {
  disks.run(requests_while([&]() -> Task<> { return disks.graph.cancel_in_flight(*throttled); }));
  EXPECT_LT(disks.world.now(), 3s);
}

// What is below wants whole units, and the last one is the disk's end.
TEST(Throttle, RequestsAtTheEndOfADiskAreNotLongerThanIt) {
  Disks disks{1};
  constexpr std::uint64_t size = 64 * KiB + 1536;
  BlkdebugOptions units;
  units.align = 4096;
  BlockNode& memory = disks.add("m", *open_memory({size}));
  BlockNode& below = disks.add("b", *open_blkdebug(memory, std::move(units)));
  auto file = Edge::attach(below, Role::filtered, {}, "throttle");
  Edge& disk = disks.attach(disks.add("t", open_throttle(*std::move(file), std::make_shared<ThrottleGroup>())));
  Edge& bytes = disks.attach(memory);
  Content data(512, std::byte{7}), all(size);
  const auto run = [&](Task<> request) { return disks.process.run(std::move(request)).ok(); };
  EXPECT_TRUE(run(disk.write(size - 512, Buffers::of_const(data))));
  EXPECT_TRUE(run(disk.read(0, Buffers(all))));
  EXPECT_EQ(all[size - 512], std::byte{7});
  EXPECT_EQ(all[size - 513], std::byte{0});
  EXPECT_TRUE(run(disk.write_zeroes({size - 256, 256})));
  EXPECT_TRUE(run(disk.discard({64 * KiB, 1536})));
  EXPECT_TRUE(run(disk.write(0, Buffers::of_const(all))));
  Content now(size);
  EXPECT_TRUE(run(bytes.read(0, Buffers(now))));
  EXPECT_EQ(now, all);
}

}  // namespace
}  // namespace tidemark::test
