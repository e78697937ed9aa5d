// What one request after another does: content, bounds, status, size.
#include "tests/contract/block/contract.hpp"

namespace tidemark::contract {
namespace {

class AnyDiskRequests : public DiskContract {};
class DiskRequests : public DiskContract {};

TEST_P(AnyDiskRequests, TellsWhatItIs) {
  check([&]() -> Task<> {
    EXPECT_EQ(node->size(), disk_size);
    EXPECT_TRUE(is_power_of_two(node->limits().request_align));
    EXPECT_TRUE(is_power_of_two(node->limits().memory_align));
    const ImageInfo info = co_await node->driver().info();
    EXPECT_EQ(info.virtual_size, disk_size);
    EXPECT_FALSE(info.format.empty());
  });
}

TEST_P(AnyDiskRequests, BeginsAsZeroes) {
  check([&]() -> Task<> { co_await expect_all(); });
}

TEST_P(AnyDiskRequests, RefusesWhatIsOutOfBounds) {
  check([&]() -> Task<> {
    std::vector<std::byte> memory(1024);
    const Range ranges[] = {{disk_size, 1},
                            {disk_size - 1, 2},
                            {disk_size - 512, 1024},
                            {~std::uint64_t{0} - 100, 200},
                            {8 * EiB, 1024}};
    for (const Range range : ranges) {
      const Buffers data = Buffers(memory).first(range.length);
      std::vector<Result<>> results;
      results.push_back(co_await edge->read(range.offset, data).result());
      results.push_back(co_await edge->write(range.offset, data).result());
      results.push_back(co_await edge->write_zeroes(range).result());
      results.push_back(co_await edge->discard(range).result());
      for (const Result<>& result : results) {
        const bool refused = !result && result.error().code() == Errc::out_of_range;
        EXPECT_TRUE(refused) << range.length << " bytes at " << range.offset;
      }
      const Result<Extent> mapped = co_await edge->map(range).result();
      EXPECT_FALSE(mapped.ok());
    }
    EXPECT_EQ(node->size(), disk_size);
    co_await expect_all();
  });
}

TEST_P(AnyDiskRequests, TakesRequestsOfNothing) {
  check([&]() -> Task<> {
    const Range nothing[] = {{0, 0}, {77, 0}, {disk_size, 0}};
    const Buffers no_data;
    for (const Range range : nothing) {
      co_await edge->read(range.offset, no_data);
      co_await edge->write(range.offset, no_data, WriteFlags::fua);
      co_await edge->write_zeroes(range);
      co_await edge->discard(range);
    }
    co_await edge->flush();
    co_await expect_all();
  });
}

TEST_P(DiskRequests, MatchAPlainModel) {
  check([&]() -> Task<> {
    for (int i = 0; i < 300; ++i) {
      const std::uint64_t length_max = i % 16 == 0 ? 512 * KiB : 16 * KiB;
      co_await random_request(length_max);
    }
    co_await expect_all();
  });
}

TEST_P(DiskRequests, OutliveTheDisksReopening) {
  if (!GetParam().disk.persistent) return;
  for (int round = 0; round < 2; ++round) {
    check([&]() -> Task<> {
      for (int i = 0; i < 60; ++i) co_await random_request(128 * KiB);
    });
    close();
    open(false);
    check([&]() -> Task<> { co_await expect_all(); });
  }
}

// More pieces of memory than one system call takes, at odd addresses and of odd lengths.
TEST_P(DiskRequests, TakeMemoryInThousandsOfPieces) {
  check([&]() -> Task<> {
    constexpr std::size_t size = 256 * KiB, count = 5000;
    std::vector<std::byte> bytes(size), got(size);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(prng());
    const auto cut = [&](std::vector<std::byte>& whole) {
      std::vector<iovec> pieces;
      for (std::size_t at = 0, i = 0; at < size; ++i) {
        const std::size_t piece =
            i == count ? size - at : std::min<std::size_t>(size - at, 1 + i % 97);
        pieces.push_back({whole.data() + at, piece});
        at += piece;
      }
      return pieces;
    };
    const std::vector<iovec> from = cut(bytes), into = cut(got);
    co_await edge->write(1000, Buffers(from));
    co_await edge->read(1000, Buffers(into));
    EXPECT_TRUE(got == bytes);
    std::copy(bytes.begin(), bytes.end(), model.begin() + 1000);
    co_await expect_all();
  });
}

TEST_P(DiskRequests, ZeroesReadAsZeroes) {
  check([&]() -> Task<> {
    const Range all{0, disk_size};
    const WriteFlags ways[] = {WriteFlags::none, WriteFlags::may_unmap, WriteFlags::fua};
    for (const WriteFlags flags : ways) {
      co_await write(all);
      const Range part{1000, 3 * MiB};
      co_await write_zeroes(part, flags);
      co_await expect_all();
    }
  });
}

TEST_P(DiskRequests, StatusCoversTheDiskAndIsTrue) {
  check([&]() -> Task<> {
    for (int i = 0; i < 40; ++i) {
      const Range range = random_range(64 * KiB);
      if (i % 4 == 3)
        co_await write_zeroes(range, WriteFlags::may_unmap);
      else
        co_await write(range);
    }
    const std::uint64_t steps[] = {disk_size, 100 * KiB, 777};
    for (const std::uint64_t step : steps) {
      std::uint64_t at = 0;
      while (at < disk_size) {
        const Range wanted{at, std::min(step, disk_size - at)};
        const Extent extent = co_await edge->map(wanted);
        EXPECT_EQ(extent.range.offset, at);
        EXPECT_TRUE(extent.range.length > 0 && extent.range.length <= wanted.length);
        if (extent.range.length == 0) co_return;
        const bool stored =
            extent.mapping == Mapping::data || extent.mapping == Mapping::compressed;
        const Bytes content = Bytes(model).subspan(at, extent.range.length);
        EXPECT_TRUE(stored || is_zero(content)) << "at " << at;
        at += extent.range.length;
      }
      EXPECT_EQ(at, disk_size);
    }
  });
}

TEST_P(DiskRequests, ResizeKeepsWhatStays) {
  check([&]() -> Task<> {
    const Range all{0, disk_size};
    co_await write(all);
    if (!resizable()) {
      const Result<> refused = co_await edge->truncate(disk_size / 2).result();
      EXPECT_FALSE(refused.ok());
      EXPECT_EQ(node->size(), disk_size);
      co_await expect_all();
      co_return;
    }
    const std::uint64_t sizes[] = {disk_size / 2 + 512, disk_size / 4, 2 * disk_size, disk_size};
    for (const std::uint64_t size : sizes) {
      co_await edge->truncate(size);
      EXPECT_EQ(node->size(), size);
      model.resize(size);
      co_await expect_all();
      std::vector<std::byte> beyond(512);
      const Result<> read = co_await edge->read(size, Buffers(beyond)).result();
      EXPECT_FALSE(read.ok());
    }
  });
}

TEST_P(DiskRequests, AreCounted) {
  check([&]() -> Task<> {
    const BlockStats before = node->stats();
    const Range range{4096, 8192};
    co_await write(range);
    co_await expect_read(range);
    co_await edge->flush();
    EXPECT_EQ(node->stats().write.operations, before.write.operations + 1);
    EXPECT_EQ(node->stats().write.bytes, before.write.bytes + 8192);
    EXPECT_EQ(node->stats().read.bytes, before.read.bytes + 8192);
    EXPECT_EQ(node->stats().flush.operations, before.flush.operations + 1);
  });
}

INSTANTIATE_TEST_SUITE_P(Block, AnyDiskRequests, testing::ValuesIn(cases(false)), case_name);
INSTANTIATE_TEST_SUITE_P(Block, DiskRequests, testing::ValuesIn(cases(true)), case_name);

}  // namespace
}  // namespace tidemark::contract
