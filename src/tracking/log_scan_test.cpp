// What a crash, rot or a lying disk leaves of the log, and what the scan makes of it.
#include "tracking/log_scan.hpp"

#include <gtest/gtest.h>

#include "tracking/log_block.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::uint64_t id = 5, epoch = 8;

class LogScanTest : public testing::Test {
 protected:
  MutableBytes block(std::uint64_t number) {
    return MutableBytes(half).subspan(number * log_block_bytes, log_block_bytes);
  }
  MutableBytes sector(std::uint64_t number, std::size_t i) {
    return block(number).subspan(i * log_sector_bytes, log_sector_bytes);
  }
  // A block whose predecessors are durable, with one range at its number.
  void put(std::uint64_t number, std::uint64_t in_epoch = epoch) {
    const Range ranges[] = {{number * 4096, 4096}};
    encode_log_block(block(number), id, {in_epoch, number, number}, ranges);
  }
  LogScan scan() const { return scan_log(half, id, epoch); }

  std::vector<std::byte> half = std::vector<std::byte>(8 * log_block_bytes);
};

TEST_F(LogScanTest, FindsWhatWasWritten) {
  EXPECT_TRUE(scan().ranges.empty());
  for (std::uint64_t i = 0; i < 8; ++i) put(i);
  EXPECT_EQ(scan().ranges.size(), 8u);
  EXPECT_FALSE(scan().broken);
  EXPECT_EQ(scan().epoch_last, epoch);
}

TEST_F(LogScanTest, ABlockHoldsAsManyAsItSays) {
  std::vector<Range> ranges;
  for (std::uint64_t i = 0; i < log_block_records; ++i) ranges.push_back({i, i + 1});
  encode_log_block(block(0), id, {epoch, 0, 0}, ranges);
  EXPECT_EQ(scan().ranges, ranges);
}

TEST_F(LogScanTest, OlderEpochsSayNothing) {
  for (std::uint64_t i = 0; i < 8; ++i) put(i, epoch - 2);
  put(0);
  EXPECT_EQ(scan().ranges.size(), 1u);
  EXPECT_FALSE(scan().broken);
}

TEST_F(LogScanTest, ATornLastBlockIsNoLoss) {
  for (std::uint64_t i = 0; i < 8; ++i) put(i, epoch - 2);
  put(0);
  const std::vector<std::byte> old(sector(1, 3).begin(), sector(1, 3).end());
  put(1);
  std::copy(old.begin(), old.end(), sector(1, 3).begin());
  EXPECT_FALSE(scan().broken);
}

TEST_F(LogScanTest, ATornBlockThatWasDurableIsALoss) {
  for (std::uint64_t i = 0; i < 3; ++i) put(i);
  std::ranges::fill(sector(1, 7), std::byte{0});
  EXPECT_TRUE(scan().broken);
}

TEST_F(LogScanTest, AMissingBlockIsALoss) {
  for (std::uint64_t i = 0; i < 3; ++i) put(i);
  put(1, epoch - 2);
  EXPECT_TRUE(scan().broken);
}

TEST_F(LogScanTest, AnyRottenByteIsALoss) {
  for (std::uint64_t i = 0; i < 3; ++i) put(i);
  for (std::size_t at = 0; at < 3 * log_block_bytes; ++at) {
    half[at] ^= std::byte{1};
    ASSERT_TRUE(scan().broken) << at;
    half[at] ^= std::byte{1};
  }
}

TEST_F(LogScanTest, ALaterEpochMeansThatTheRootIsOld) {
  put(0, epoch + 2);
  EXPECT_TRUE(scan().broken);
}

TEST_F(LogScanTest, AnotherStoresBlocksAreNotOurs) {
  const Range ranges[] = {{0, 4096}};
  encode_log_block(block(0), id + 1, {epoch, 0, 0}, ranges);
  EXPECT_TRUE(scan().broken);
  EXPECT_TRUE(scan().ranges.empty());
}

}  // namespace
}  // namespace tidemark::tracking
