// The storages without a file: memory and null-co.
#include "storage/memory.hpp"

#include <gtest/gtest.h>

#include "io/sim/process.hpp"
#include "storage/null.hpp"

namespace tidemark {
namespace {

class MemoryTest : public testing::Test {
 protected:
  template <class T>
  T run(Task<T> task) {
    Result<T> outcome = process.run(std::move(task));
    if (!outcome) ADD_FAILURE() << outcome.error().message();
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
  }
  static std::unique_ptr<BlockDriver> memory(std::uint64_t size) {
    MemoryOptions options;
    options.size = size;
    return *open_memory(options);
  }
  std::unique_ptr<BlockDriver> null(NullOptions options) {
    return *open_null(process.reactor(), options);
  }

  SimWorld world{1};
  SimProcess process{world};
};

TEST_F(MemoryTest, CostsWhatWasWritten) {
  const auto disk = memory(max_disk_size);
  const std::vector<std::byte> data(100, std::byte{1});
  run(disk->write(4 * EiB - 50, Buffers::of_const(data), WriteFlags::none));
  EXPECT_EQ(run(disk->info()).actual_size, 2 * 64 * KiB);
  const Range all{0, max_disk_size};
  const Extent hole = run(disk->map(all));
  EXPECT_EQ(hole.mapping, Mapping::zero);
  EXPECT_EQ(hole.range, (Range{0, 4 * EiB - 64 * KiB}));
  const Range from{4 * EiB - 1, 1 * MiB};
  const Extent stored = run(disk->map(from));
  EXPECT_EQ(stored.mapping, Mapping::data);
  EXPECT_EQ(stored.range.length, 64 * KiB + 1);
  std::vector<std::byte> got(300, std::byte{9});
  run(disk->read(4 * EiB - 150, Buffers(got)));
  EXPECT_TRUE(is_zero(Bytes(got).first(100)) && is_zero(Bytes(got).last(100)));
  EXPECT_TRUE(std::equal(data.begin(), data.end(), got.begin() + 100));
  run(disk->write_zeroes({1, max_disk_size - 1}, WriteFlags::none));
  EXPECT_EQ(run(disk->info()).actual_size, 0u);
}

TEST_F(MemoryTest, ZeroesPartsOfPages) {
  const auto disk = memory(1 * MiB);
  const std::vector<std::byte> data(256 * KiB, std::byte{1});
  run(disk->write(0, Buffers::of_const(data), WriteFlags::none));
  run(disk->write_zeroes({100, 192 * KiB}, WriteFlags::none));
  std::vector<std::byte> got(256 * KiB);
  run(disk->read(0, Buffers(got)));
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + 100, data.begin()));
  EXPECT_TRUE(is_zero(Bytes(got).subspan(100, 192 * KiB)));
  EXPECT_EQ(got[100 + 192 * KiB], std::byte{1});
  EXPECT_EQ(run(disk->info()).actual_size, 2 * 64 * KiB);
}

TEST_F(MemoryTest, WhatIsCutOffIsGone) {
  const auto disk = memory(128 * KiB);
  const std::vector<std::byte> data(128 * KiB, std::byte{1});
  run(disk->write(0, Buffers::of_const(data), WriteFlags::none));
  run(disk->truncate(1000));
  run(disk->truncate(128 * KiB));
  std::vector<std::byte> got(128 * KiB);
  run(disk->read(0, Buffers(got)));
  EXPECT_EQ(got[999], std::byte{1});
  EXPECT_TRUE(is_zero(Bytes(got).subspan(1000)));
}

TEST_F(MemoryTest, RefusesWhatNoDiskCanBe) {
  MemoryOptions memory_options;
  memory_options.size = max_disk_size + 1;
  EXPECT_FALSE(open_memory(memory_options).ok());
  NullOptions options;
  options.size = max_disk_size + 1;
  EXPECT_FALSE(open_null(process.reactor(), options).ok());
  options = {};
  options.latency_ns = ~std::uint64_t{0};
  EXPECT_EQ(open_null(process.reactor(), options).error().message(), "latency-ns is invalid");
}

TEST_F(MemoryTest, NullReadsZeroesWhenAsked) {
  NullOptions options;
  options.read_zeroes = true;
  std::vector<std::byte> got(512, std::byte{9});
  run(null({})->read(0, Buffers(got)));
  EXPECT_EQ(got[0], std::byte{9});
  const auto zeroes = null(options);
  EXPECT_EQ(zeroes->size(), 1 * GiB);
  run(zeroes->read(0, Buffers(got)));
  EXPECT_TRUE(is_zero(got));
  const Range all{0, 1 * GiB};
  EXPECT_EQ(run(zeroes->map(all)).mapping, Mapping::zero);
}

TEST_F(MemoryTest, NullTakesItsTime) {
  NullOptions options;
  options.latency_ns = 5'000'000;
  const auto disk = null(options);
  const Instant before = world.now();
  run(disk->flush());
  EXPECT_GE(world.now() - before, std::chrono::milliseconds(5));
}

}  // namespace
}  // namespace tidemark
