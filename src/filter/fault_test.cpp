#include "tests/support/test_disks.hpp"

namespace tidemark::test {
namespace {

class FaultTest : public testing::Test {
 protected:
  Disks disks{1};
  Edge& edge = disks.attach(disks.disk("d", MiB));
  Content data = Content(4 * KiB, std::byte{1});

  bool writes(std::uint64_t offset) {
    return disks.process.run(edge.write(offset, Buffers::of_const(data))).ok();
  }
};

TEST_F(FaultTest, FailsTheRequestsItsRulesName) {
  FaultRule rule;
  rule.op = FaultOp::write;
  rule.range = Range{64 * KiB, 64 * KiB};
  rule.skip = 1;
  rule.count = 2;
  rule.os_errno = ENOSPC;
  disks.set_faults("d", {rule});
  EXPECT_TRUE(writes(0));
  EXPECT_TRUE(writes(64 * KiB));  // skipped
  const Error error = disks.error_of(edge.write(96 * KiB, Buffers::of_const(data)));
  EXPECT_EQ(error.code(), Errc::no_space);
  EXPECT_EQ(error.message(), "node 'd': injected fault: write: No space left on device");
  EXPECT_TRUE(disks.process.run(edge.discard({64 * KiB, 4 * KiB})).ok());
  EXPECT_FALSE(writes(124 * KiB));
  EXPECT_TRUE(writes(124 * KiB));
  EXPECT_EQ(disks.fault("d").failed(), 2u);
}

TEST_F(FaultTest, DelaysAndFailsByChance) {
  FaultRule delay;
  delay.latency_ns = 1'000'000;
  FaultRule chance;
  chance.os_errno = EIO;
  chance.one_in = 4;
  disks.set_faults("d", {delay, chance});
  int failed = 0;
  for (int i = 0; i < 400; ++i) failed += !writes(0);
  EXPECT_GT(failed, 50);
  EXPECT_LT(failed, 200);
  EXPECT_GE(disks.world.now(), std::chrono::milliseconds(400));
  EXPECT_FALSE(disks.fault("d").failed() == 0);
}

TEST_F(FaultTest, FlushesFailToo) {
  FaultRule rule;
  rule.op = FaultOp::flush;
  rule.os_errno = EIO;
  disks.set_faults("d", {rule});
  EXPECT_EQ(disks.error_of(edge.flush()).to_errno(), EIO);
  EXPECT_TRUE(writes(0));
}

}  // namespace
}  // namespace tidemark::test
