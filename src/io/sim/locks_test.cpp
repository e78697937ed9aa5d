// SimLocks: conflicts between owners, and how an owner's own locks replace each other.
#include "io/sim/locks.hpp"

#include <gtest/gtest.h>

#include <cerrno>

namespace tidemark {
namespace {

using Mode = LockRequest::Mode;

class SimLocksTest : public testing::Test {
 protected:
  int lock(std::uint64_t owner, Mode mode, std::uint64_t offset, std::uint64_t length) {
    return locks_.request(owner, {mode, offset, length});
  }
  // Which bytes of ten owner 9 could not lock exclusively.
  std::string held() {
    std::string bytes;
    for (std::uint64_t at = 0; at < 10; ++at)
      bytes += lock(9, Mode::test_exclusive, at, 1) == 0 ? '.' : 'x';
    return bytes;
  }
  SimLocks locks_;
};

TEST_F(SimLocksTest, SharedLocksGoTogether) {
  EXPECT_EQ(lock(1, Mode::shared, 2, 4), 0);
  EXPECT_EQ(lock(2, Mode::shared, 4, 4), 0);
  EXPECT_EQ(lock(2, Mode::exclusive, 0, 3), -EAGAIN);
  EXPECT_EQ(lock(3, Mode::exclusive, 8, 2), 0);
  EXPECT_EQ(lock(1, Mode::shared, 0, 10), -EAGAIN);
  EXPECT_EQ(held(), "..xxxxxxxx");
}

TEST_F(SimLocksTest, OnesOwnLocksAreReplacedAndSplit) {
  EXPECT_EQ(lock(1, Mode::exclusive, 0, 10), 0);
  EXPECT_EQ(lock(1, Mode::shared, 4, 2), 0);
  EXPECT_EQ(lock(2, Mode::shared, 4, 2), 0);
  EXPECT_EQ(lock(2, Mode::shared, 3, 1), -EAGAIN);
  EXPECT_EQ(lock(1, Mode::exclusive, 4, 2), -EAGAIN);
  EXPECT_EQ(lock(2, Mode::unlock, 0, 10), 0);
  EXPECT_EQ(lock(1, Mode::unlock, 2, 6), 0);
  EXPECT_EQ(held(), "xx......xx");
}

TEST_F(SimLocksTest, LengthZeroIsToTheEnd) {
  EXPECT_EQ(lock(1, Mode::exclusive, 5, 0), 0);
  EXPECT_EQ(held(), ".....xxxxx");
  EXPECT_EQ(lock(2, Mode::shared, 4 * TiB, 1), -EAGAIN);
  EXPECT_EQ(lock(2, Mode::shared, ~std::uint64_t{0}, 1), -EINVAL);
  locks_.drop(1);
  EXPECT_EQ(held(), "..........");
}

}  // namespace
}  // namespace tidemark
