// Segments against the bitmap itself: random sets, stored and loaded, are the same; what is unchanged is
// not stored again; damage is told.
#include "tracking/segments.hpp"

#include <gtest/gtest.h>

#include <map>

#include "base/random.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::uint64_t id = 3;

struct Stored {
  std::map<std::uint64_t, std::vector<std::byte>> at;
  std::uint64_t next = 4096;
  SegmentTable store(const DirtyBitmap& bitmap, const SegmentTable& before = {}) {
    SegmentWriter writer(bitmap, before, id, [&](Bytes bytes) {
      at[next].assign(bytes.begin(), bytes.end());
      return std::exchange(next, next + bytes.size());
    });
    while (writer.step()) {}
    return std::move(writer.table);
  }
  DirtyBitmap load(const SegmentTable& table, const DirtyBitmap& like) {
    DirtyBitmap bitmap(like.size(), like.granularity());
    for (const Segment& s : table) EXPECT_TRUE(load_segment(bitmap, s, at[s.position], id));
    return bitmap;
  }
};

DirtyBitmap random_bitmap(Prng& prng, std::uint64_t size, std::uint64_t granularity) {
  DirtyBitmap bitmap(size, granularity);
  const bool strewn = prng.chance(1, 3);
  for (std::uint64_t n = prng.below(40); n != 0; --n) {
    if (strewn) bitmap.set({prng.below(size), 1});
    if (strewn) continue;
    const std::uint64_t from = prng.below(size);
    const std::uint64_t most = prng.chance(1, 3) ? size - from : std::min<std::uint64_t>(size - from, 100 * granularity);
    const Range range{from, 1 + prng.below(most)};
    if (prng.chance(1, 4)) bitmap.clear(range);
    else bitmap.set(range);
  }
  return bitmap;
}

TEST(Segments, AreLoadedAsStored) {
  Prng prng(1);
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t granularity = 512u << prng.below(6);
    const std::uint64_t size = 1 + prng.below(6 * segment_granules * granularity);
    const DirtyBitmap bitmap = random_bitmap(prng, size, granularity);
    Stored stored;
    const SegmentTable table = stored.store(bitmap);
    ASSERT_TRUE(stored.load(table, bitmap) == bitmap) << size << " " << granularity;
    Encoder to;
    encode_table(to, table);
    Decoder from(to.bytes());
    const Range data{4096, stored.next};
    const auto read = decode_table(from, segments_of(bitmap), data);
    ASSERT_TRUE(read.ok());
    ASSERT_EQ(*read, table);
  }
}

// What a file that was cut short has no more is dirtied, and what it has is right; also when that was written down before it was read.
TEST(Segments, AreMissingBehindTheEndOfTheFile) {
  Prng prng(4);
  const std::uint64_t size = 8 * segment_granules * 512;
  const DirtyBitmap bitmap = random_bitmap(prng, size, 512);
  Stored stored;
  const SegmentTable table = stored.store(bitmap);
  for (const bool again : {false, true})
    for (std::uint64_t end = stored.next; end >= 4096; end -= std::min<std::uint64_t>(end, 1024)) {
      SegmentTable read = table;
      for (int times = 0; times < (again ? 2 : 1); ++times) {
        Encoder to;
        encode_table(to, read);
        Decoder from(to.bytes());
        const auto decoded = decode_table(from, segments_of(bitmap), {4096, end - 4096});
        ASSERT_TRUE(decoded.ok());
        read = *decoded;
      }
      ASSERT_EQ(read.size(), table.size());
      for (std::size_t i = 0; i < table.size(); ++i) {
        const bool there = table[i].position + table[i].length <= end;
        EXPECT_EQ(read[i].kind, there ? table[i].kind : Segment::Kind::missing);
        EXPECT_EQ(read[i].index, table[i].index);
        DirtyBitmap loaded(size, 512);
        EXPECT_EQ(load_segment(loaded, read[i], stored.at[read[i].position], id), there);
      }
    }
}

// As a job's frozen bits and those marked since are, after a crash.
TEST(Segments, AddToWhatIsThere) {
  Prng prng(2);
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t size = 1 + prng.below(3 * segment_granules * 512);
    const DirtyBitmap first = random_bitmap(prng, size, 512), second = random_bitmap(prng, size, 512);
    Stored stored;
    const SegmentTable tables[] = {stored.store(first), stored.store(second)};
    DirtyBitmap both = first.clone(), loaded(size, 512);
    both.merge(second);
    for (const SegmentTable& table : tables)
      for (const Segment& s : table) ASSERT_TRUE(load_segment(loaded, s, stored.at[s.position], id));
    ASSERT_TRUE(loaded == both) << i;
  }
}

TEST(Segments, OnlyWhatChangedIsStoredAgain) {
  DirtyBitmap bitmap(16 * TiB, 64 * KiB);
  for (std::uint64_t at = 0; at < 16 * TiB; at += 1 * TiB) bitmap.set({at, 1});
  Stored stored;
  const SegmentTable before = stored.store(bitmap);
  EXPECT_EQ(stored.at.size(), 16u);
  bitmap.set({3 * TiB + 64 * KiB, 1});
  const SegmentTable after = stored.store(bitmap, before);
  EXPECT_EQ(stored.at.size(), 17u);
  EXPECT_TRUE(stored.load(after, bitmap) == bitmap);
}

TEST(Segments, WhollyDirtyCostsOneEntry) {
  DirtyBitmap bitmap(max_disk_size, 512);
  bitmap.set_all();
  Stored stored;
  const SegmentTable table = stored.store(bitmap);
  EXPECT_EQ(table.size(), 1u);
  EXPECT_TRUE(stored.at.empty());
  EXPECT_TRUE(stored.load(table, bitmap) == bitmap);
}

TEST(Segments, DamageIsTold) {
  DirtyBitmap bitmap(1 * GiB, 64 * KiB);
  bitmap.set({100 * MiB, 300 * KiB});
  Stored stored;
  const SegmentTable table = stored.store(bitmap);
  ASSERT_EQ(table.size(), 1u);
  auto& bytes = stored.at[table[0].position];
  for (auto& byte : bytes) {
    byte ^= std::byte{2};
    DirtyBitmap loaded(1 * GiB, 64 * KiB);
    EXPECT_FALSE(load_segment(loaded, table[0], bytes, id));
    byte ^= std::byte{2};
  }
}

}  // namespace
}  // namespace tidemark::tracking
