// What a bitmap costs, counted at operator new.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "base/random.hpp"
#include "bitmap/dirty_bitmap.hpp"

namespace {
std::size_t live_bytes = 0;
constexpr std::size_t head = 16;  // remembers the size; malloc's own is 8
}  // namespace

void* operator new(std::size_t size) {
  auto* block = static_cast<char*>(std::malloc(size + head));
  if (!block) std::abort();
  *reinterpret_cast<std::size_t*>(block) = size;
  live_bytes += size + 8;
  return block + head;
}

void operator delete(void* pointer) noexcept {
  if (!pointer) return;
  auto* block = static_cast<char*>(pointer) - head;
  live_bytes -= *reinterpret_cast<std::size_t*>(block) + 8;
  std::free(block);
}

void operator delete(void* pointer, std::size_t) noexcept { operator delete(pointer); }

// A sanitizer's own would not come by those above.
void* operator new[](std::size_t size) { return operator new(size); }
void operator delete[](void* pointer) noexcept { operator delete(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { operator delete(pointer); }

namespace tidemark {
namespace {

void fill_randomly(DirtyBitmap& bitmap, std::uint64_t seed) {
  Prng random(seed);
  Word words[64];
  for (std::uint64_t granule = 0; granule < bitmap.granules(); granule += 64 * 64) {
    for (Word& word : words) word = random();
    ASSERT_TRUE(bitmap.load_chunk(granule, std::as_bytes(std::span(words))));
  }
}

struct Cost {
  std::size_t counted;
  std::size_t told;
};

Cost random_cost(std::uint64_t size, std::uint64_t granularity) {
  const std::size_t before = live_bytes;
  DirtyBitmap bitmap(size, granularity);
  fill_randomly(bitmap, 1);
  return {live_bytes - before + sizeof bitmap, bitmap.memory_bytes()};
}

TEST(BitmapMemory, OneTebibyteAt32KiB) {
  const Cost cost = random_cost(TiB, 32 * KiB);
  EXPECT_LE(cost.counted, 41 * MiB / 10);
  EXPECT_GT(cost.counted, 4 * MiB);
  EXPECT_LE(cost.told, cost.counted);
  EXPECT_GE(cost.told, cost.counted * 99 / 100);
}

TEST(BitmapMemory, OneTebibyteAt128KiB) {
  EXPECT_LE(random_cost(TiB, 128 * KiB).counted, 105 * MiB / 100);
}

TEST(BitmapMemory, CleanOrDirtyThroughoutCostsNothing) {
  const std::size_t before = live_bytes;
  DirtyBitmap bitmap(TiB, 32 * KiB);
  EXPECT_EQ(live_bytes, before);
  for (std::uint64_t offset = 0; offset < TiB; offset += GiB) bitmap.set({offset, GiB});
  EXPECT_EQ(live_bytes, before);
  EXPECT_EQ(bitmap.dirty_bytes(), TiB);
  for (std::uint64_t offset = 0; offset < 2 * GiB; offset += 32 * KiB)
    bitmap.clear({offset, 32 * KiB});
  EXPECT_LT(bitmap.memory_bytes(), 2 * KiB);
  bitmap.clear({0, TiB});
  EXPECT_EQ(live_bytes, before);
}

TEST(BitmapMemory, MarksThatAreFarApartCostLittle) {
  DirtyBitmap bitmap(16 * TiB, 64 * KiB);
  for (std::uint64_t offset = 0; offset < 16 * TiB; offset += TiB) bitmap.set({offset, 1});
  EXPECT_LT(bitmap.memory_bytes(), 16 * KiB);
  Prng random(3);
  for (int i = 0; i < 20'000; ++i) bitmap.set({random.below(16 * TiB), 1});
  EXPECT_LT(bitmap.memory_bytes(), MiB);
  bitmap.invert();
  EXPECT_GT(bitmap.memory_bytes(), 29 * MiB);
  bitmap.invert();
  EXPECT_LT(bitmap.memory_bytes(), MiB);
}

TEST(BitmapMemory, EverythingIsGivenBack) {
  const std::size_t before = live_bytes;
  {
    DirtyBitmap bitmap(max_disk_size, 512);
    Prng random(2);
    for (int i = 0; i < 1000; ++i) bitmap.set({random.below(max_disk_size), 1});
    DirtyBitmap copy = bitmap.clone();
    bitmap.invert();
    copy.merge(bitmap);
    EXPECT_EQ(copy.dirty_bytes(), max_disk_size);
    EXPECT_EQ(copy.memory_bytes(), sizeof copy);
    bitmap = copy.take();
  }
  EXPECT_EQ(live_bytes, before);
}

}  // namespace
}  // namespace tidemark
