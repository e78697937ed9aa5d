// DirtyBitmap at its edges: limits, last granules, huge disks, and the dense form.
#include "bitmap/dirty_bitmap.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.hpp"

namespace tidemark {
namespace {

std::vector<Range> areas(const DirtyBitmap& bitmap, Range within, std::uint64_t max_bytes) {
  std::vector<Range> all;
  DirtyAreas areas(bitmap, within, max_bytes);
  while (auto area = areas.next()) all.push_back(*area);
  return all;
}

TEST(DirtyBitmap, AcceptsPowersOfTwoFrom512To2GiB) {
  for (std::uint64_t granularity = 512; granularity <= 2 * GiB; granularity *= 2)
    EXPECT_TRUE(DirtyBitmap::valid_granularity(granularity));
  for (std::uint64_t granularity :
       {std::uint64_t{0}, std::uint64_t{256}, std::uint64_t{768}, 4 * GiB})
    EXPECT_FALSE(DirtyBitmap::valid_granularity(granularity));
}

TEST(DirtyBitmapDeathTest, RangesLieWithinTheDisk) {
  DirtyBitmap bitmap(MiB, 64 * KiB);
  EXPECT_DEATH(bitmap.set({MiB - 1, 2}), "assertion failed");
  EXPECT_DEATH(bitmap.clear({0, MiB + 1}), "assertion failed");
  EXPECT_DEATH(bitmap.test(MiB), "assertion failed");
  EXPECT_DEATH(DirtyBitmap(MiB, 0), "assertion failed");
}

TEST(DirtyBitmap, DiskOfNoBytesHasNothing) {
  DirtyBitmap bitmap(0, 64 * KiB);
  bitmap.set_all();
  bitmap.invert();
  bitmap.set({0, 0});
  bitmap.clear({0, 0});
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_EQ(bitmap.granules(), 0u);
  EXPECT_EQ(bitmap.next_dirty(0), std::nullopt);
  EXPECT_EQ(bitmap.next_clean(0), std::nullopt);
  bitmap.truncate(64 * KiB);
  EXPECT_EQ(bitmap.next_clean(0), 0u);
}

TEST(DirtyBitmap, SetMarksEveryGranuleTouched) {
  DirtyBitmap bitmap(MiB, 64 * KiB);
  EXPECT_EQ(bitmap.set({64 * KiB - 1, 2}), 2u);
  EXPECT_EQ(bitmap.set({0, 64 * KiB + 1}), 0u);
  EXPECT_EQ(bitmap.set({128 * KiB, 1}), 1u);
  EXPECT_EQ(bitmap.count(), 3u);
  EXPECT_TRUE(bitmap.test(192 * KiB - 1));
  EXPECT_FALSE(bitmap.test(192 * KiB));
}

TEST(DirtyBitmap, ClearUnmarksOnlyWholeGranules) {
  DirtyBitmap bitmap(MiB, 64 * KiB);
  bitmap.set_all();
  EXPECT_EQ(bitmap.clear({1, 128 * KiB - 2}), 0u);
  EXPECT_EQ(bitmap.clear({1, 128 * KiB - 1}), 1u);
  EXPECT_EQ(bitmap.next_clean(0), 64 * KiB);
  EXPECT_EQ(bitmap.next_dirty(64 * KiB), 128 * KiB);
  EXPECT_EQ(bitmap.count(), 15u);
}

TEST(DirtyBitmap, LastGranuleIsWholeAtTheEndOfTheDisk) {
  const std::uint64_t size = 3 * 64 * KiB + 512;
  DirtyBitmap bitmap(size, 64 * KiB);
  EXPECT_EQ(bitmap.granules(), 4u);
  bitmap.set_all();
  EXPECT_EQ(bitmap.count(), 4u);
  EXPECT_EQ(bitmap.dirty_bytes(), size);
  EXPECT_EQ(bitmap.clear({3 * 64 * KiB, 511}), 0u);
  EXPECT_EQ(bitmap.clear({3 * 64 * KiB, 512}), 1u);
  EXPECT_EQ(bitmap.dirty_bytes(), 3 * 64 * KiB);
  bitmap.set({size - 1, 1});
  EXPECT_EQ(bitmap.next_dirty_area(3 * 64 * KiB, size), (Range{3 * 64 * KiB, 512}));
}

TEST(DirtyBitmap, AreasAreCutAtTheRangeAndTheMaximum) {
  DirtyBitmap bitmap(MiB, 4 * KiB);
  bitmap.set({8 * KiB, 16 * KiB});
  EXPECT_EQ(bitmap.next_dirty_area(9 * KiB, 21 * KiB), (Range{9 * KiB, 12 * KiB}));
  EXPECT_EQ(bitmap.next_dirty_area(0, 8 * KiB), std::nullopt);
  EXPECT_EQ(bitmap.next_dirty_area(0, MiB, 0), std::nullopt);
  EXPECT_EQ(bitmap.next_dirty_area(24 * KiB, ~std::uint64_t{0}), std::nullopt);
  EXPECT_EQ(areas(bitmap, {0, MiB}, 12 * KiB),
            (std::vector<Range>{{8 * KiB, 12 * KiB}, {20 * KiB, 4 * KiB}}));
}

TEST(DirtyBitmap, AreasFollowABitmapThatChanges) {
  DirtyBitmap bitmap(MiB, 4 * KiB);
  bitmap.set({0, 64 * KiB});
  DirtyAreas areas(bitmap, {0, MiB}, 16 * KiB);
  EXPECT_EQ(areas.next(), (Range{0, 16 * KiB}));
  bitmap.clear({0, 32 * KiB});
  bitmap.set({0, 1});
  EXPECT_EQ(areas.next(), (Range{32 * KiB, 16 * KiB}));
  EXPECT_EQ(areas.position(), 48 * KiB);
  areas.seek(0);
  EXPECT_EQ(areas.next(), (Range{0, 4 * KiB}));
}

TEST(DirtyBitmap, TheLargestDiskInSectorsIsLight) {
  DirtyBitmap bitmap(max_disk_size, 512);
  EXPECT_EQ(bitmap.granules(), std::uint64_t{1} << 54);
  bitmap.set({0, 1});
  bitmap.set({max_disk_size - 1, 1});
  bitmap.set({5 * EiB + 12345, 700});
  EXPECT_EQ(bitmap.count(), 4u);
  EXPECT_LT(bitmap.memory_bytes(), 64 * KiB);
  EXPECT_EQ(areas(bitmap, {0, max_disk_size}, EiB),
            (std::vector<Range>{{0, 512}, {5 * EiB + 12288, 1024}, {max_disk_size - 511, 511}}));
  EXPECT_EQ(bitmap.dirty_bytes(), 512u + 1024 + 511);
  EXPECT_EQ(bitmap.next_clean(0), 512u);
  bitmap.invert();
  EXPECT_EQ(bitmap.count(), (std::uint64_t{1} << 54) - 4);
  EXPECT_EQ(bitmap.next_clean(512), 5 * EiB + 12288);
  EXPECT_EQ(bitmap.set({0, max_disk_size}), 4u);
  EXPECT_EQ(bitmap.next_clean(0), std::nullopt);
  EXPECT_EQ(bitmap.dirty_bytes(), max_disk_size);
  EXPECT_EQ(bitmap.memory_bytes(), sizeof bitmap);
}

TEST(DirtyBitmap, GrowthIsCleanAndALossIsALoss) {
  DirtyBitmap bitmap(TiB, 64 * KiB);
  bitmap.set_all();
  bitmap.truncate(max_disk_size);
  EXPECT_EQ(bitmap.dirty_bytes(), TiB);
  EXPECT_EQ(bitmap.next_clean(0), TiB);
  bitmap.truncate(MiB + 1);
  EXPECT_EQ(bitmap.count(), 17u);
  EXPECT_EQ(bitmap.dirty_bytes(), MiB + 1);
  bitmap.truncate(2 * TiB);
  EXPECT_EQ(bitmap.next_clean(0), MiB + 64 * KiB);
  EXPECT_EQ(bitmap.count(), 17u);
}

TEST(DirtyBitmap, TakingLeavesACleanBitmapOfTheSameDisk) {
  DirtyBitmap bitmap(TiB, 64 * KiB);
  bitmap.set({GiB, MiB});
  const DirtyBitmap taken = bitmap.take();
  EXPECT_EQ(taken.count(), 16u);
  EXPECT_TRUE(bitmap.empty());
  EXPECT_EQ(bitmap, DirtyBitmap(TiB, 64 * KiB));
  bitmap.merge(taken);
  EXPECT_EQ(bitmap, taken);
  bitmap.merge(bitmap);
  EXPECT_EQ(bitmap, taken);
}

TEST(DirtyBitmap, EqualityNeedsTheSameDiskAndGranules) {
  const DirtyBitmap bitmap(MiB, 64 * KiB);
  EXPECT_NE(bitmap, DirtyBitmap(MiB - 1, 64 * KiB));
  EXPECT_NE(bitmap, DirtyBitmap(MiB, 32 * KiB));
  DirtyBitmap other = bitmap.clone();
  EXPECT_EQ(bitmap, other);
  other.set({0, 1});
  EXPECT_NE(bitmap, other);
}

TEST(DirtyBitmap, MergesAcrossTheWidestGranularities) {
  DirtyBitmap fine(max_disk_size, 512);
  DirtyBitmap coarse(max_disk_size, 2 * GiB);
  fine.set({3 * EiB, 1});
  fine.set({max_disk_size - 1, 1});
  coarse.merge(fine);
  EXPECT_EQ(areas(coarse, {0, max_disk_size}, EiB),
            (std::vector<Range>{{3 * EiB, 2 * GiB}, {max_disk_size - (2 * GiB - 1), 2 * GiB - 1}}));
  fine.merge(coarse);
  EXPECT_EQ(fine.count(), 2 * (2 * GiB / 512));
  EXPECT_EQ(fine.next_dirty(0), 3 * EiB);
}

TEST(DirtyBitmap, AMergeStopsAtTheSmallerDisk) {
  DirtyBitmap small(MiB + 512, 64 * KiB);
  DirtyBitmap large(GiB, 4 * KiB);
  small.set_all();
  large.merge(small);
  EXPECT_EQ(large.dirty_bytes(), MiB + 4 * KiB);
  large.set_all();
  small.clear_all();
  small.merge(large);
  EXPECT_EQ(small.dirty_bytes(), MiB + 512);
}

TEST(DirtyBitmap, DenseFormIsLeastSignificantBitFirst) {
  DirtyBitmap bitmap(100 * 512, 512);
  bitmap.set({0, 512});
  bitmap.set({9 * 512, 512});
  bitmap.set({99 * 512, 512});
  EXPECT_EQ(bitmap.dense_bytes(), 13u);
  std::vector<std::byte> chunk(24, std::byte{0xee});
  bitmap.store_chunk(0, chunk);
  std::vector<std::byte> expected(24);
  expected[0] = std::byte{1};
  expected[1] = std::byte{2};
  expected[12] = std::byte{8};
  EXPECT_EQ(chunk, expected);
}

TEST(DirtyBitmap, LoadingRefusesNothingButTellsOfBitsBeyondTheEnd) {
  DirtyBitmap bitmap(100 * 512, 512);
  std::vector<std::byte> chunk(13, std::byte{0xff});
  EXPECT_FALSE(bitmap.load_chunk(0, chunk));
  EXPECT_EQ(bitmap.count(), 100u);
  EXPECT_EQ(bitmap.memory_bytes(), sizeof bitmap);
  chunk[12] = std::byte{0x0f};
  EXPECT_TRUE(bitmap.load_chunk(0, chunk));
  chunk.resize(4096);
  EXPECT_TRUE(bitmap.load_chunk(0, chunk));
  chunk[4095] = std::byte{1};
  EXPECT_FALSE(bitmap.load_chunk(0, chunk));
  EXPECT_FALSE(bitmap.load_chunk(128, chunk));
  EXPECT_EQ(bitmap.count(), 100u);
}

TEST(DirtyBitmap, LoadingAChunkReplacesItsGranulesOnly) {
  DirtyBitmap bitmap(GiB, 512);
  bitmap.set_all();
  const std::vector<std::byte> zeroes(8);
  EXPECT_TRUE(bitmap.load_chunk(64, zeroes));
  EXPECT_EQ(bitmap.next_clean(0), 64u * 512);
  EXPECT_EQ(bitmap.next_dirty(64 * 512), 128u * 512);
  EXPECT_EQ(bitmap.count(), bitmap.granules() - 64);
}

TEST(DirtyBitmap, FewGranulesAreToldByTheirNumbers) {
  constexpr std::uint64_t stretch = DirtyBitmap::stretch_granules;
  DirtyBitmap bitmap(2 * stretch * 512 + 5, 512);
  EXPECT_TRUE(bitmap.few_at(0).empty());
  const std::uint16_t numbers[] = {7, 3, 32767, 3};
  EXPECT_TRUE(bitmap.set_few(stretch, numbers));
  const auto few = bitmap.few_at(stretch);
  EXPECT_EQ(std::vector(few.begin(), few.end()), (std::vector<std::uint16_t>{3, 7, 32767}));
  EXPECT_EQ(bitmap.count(), 3u);
  EXPECT_TRUE(bitmap.test((stretch + 32767) * 512));
  const std::uint16_t last[] = {0}, beyond[] = {0, 1};
  EXPECT_FALSE(bitmap.set_few(2 * stretch, beyond));
  EXPECT_EQ(bitmap.count(), 3u);
  EXPECT_TRUE(bitmap.set_few(2 * stretch, last));
  EXPECT_EQ(bitmap.count(), 4u);
  bitmap.set({stretch * 512, stretch * 256});
  EXPECT_TRUE(bitmap.few_at(stretch).empty()) << "there are many";
  bitmap.set_all();
  EXPECT_TRUE(bitmap.few_at(0).empty());
  EXPECT_TRUE(bitmap.set_few(0, numbers));
  EXPECT_EQ(bitmap.count(), bitmap.granules());
}

TEST(DirtyBitmap, ChunksThatAreAlikeAreToldWithoutReadingThem) {
  DirtyBitmap bitmap(max_disk_size, 512);
  const std::uint64_t half = bitmap.granules() / 2;
  bitmap.set({0, 4 * EiB});
  using Fill = DirtyBitmap::Fill;
  EXPECT_EQ(bitmap.chunk_fill(0, half), Fill::dirty);
  EXPECT_EQ(bitmap.chunk_fill(half, ~std::uint64_t{0}), Fill::clean);
  EXPECT_EQ(bitmap.chunk_fill(half - 64, 128), Fill::mixed);
  EXPECT_EQ(bitmap.chunk_fill(bitmap.granules() + 64, 64), Fill::clean);
}

TEST(DirtyBitmap, WordsAreThoseThatQemuDigests) {
  for (std::uint64_t granules : {0, 1, 64, 65, 32768, 32769, 100000}) {
    DirtyBitmap bitmap(granules * 4096, 4096);
    for (std::uint64_t g = 0; g < granules; g += 7) bitmap.set({g * 4096, 1});
    std::vector<Word> words;
    bitmap.for_each_words(
        [&](std::span<const Word> part) { words.insert(words.end(), part.begin(), part.end()); });
    ASSERT_EQ(words.size(), granules == 0 ? 1 : (granules + 63) / 64);
    for (std::uint64_t i = 0; i < words.size() * 64; ++i)
      ASSERT_EQ(words[i / 64] >> i % 64 & 1, i < granules && i % 7 == 0) << i;
    bitmap.set_all();
    std::uint64_t ones = 0;
    bitmap.for_each_words([&](std::span<const Word> part) {
      for (Word word : part) ones += static_cast<unsigned>(std::popcount(word));
    });
    EXPECT_EQ(ones, granules);
  }
}

}  // namespace
}  // namespace tidemark
