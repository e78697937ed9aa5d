// What DirtyBitmap's operations cost.  The bitmap is that of a 16 TiB disk at 64 KiB (32 MiB of
// bits) unless a name says otherwise; "random" has every other bit set at random, the worst case.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#include "base/random.hpp"
#include "bitmap/dirty_bitmap.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t disk = 16 * TiB;
constexpr std::uint64_t granule = 64 * KiB;

DirtyBitmap random_bitmap(std::uint64_t size, std::uint64_t granularity, std::uint64_t seed) {
  DirtyBitmap bitmap(size, granularity);
  Prng random(seed);
  std::vector<Word> words(Leaf::size);
  for (std::uint64_t at = 0; at < bitmap.granules(); at += Leaf::bits) {
    for (Word& word : words) word = random();
    benchmark::DoNotOptimize(bitmap.load_chunk(at, std::as_bytes(std::span(words))));
  }
  return bitmap;
}

// Offsets of requests, precomputed so that the generator is not what is measured.
std::vector<std::uint64_t> random_offsets(std::uint64_t size) {
  Prng random(7);
  std::vector<std::uint64_t> offsets(1 << 16);
  for (auto& offset : offsets) offset = align_down(random.below(size), 4 * KiB);
  return offsets;
}

void per_second(benchmark::State& state, std::int64_t items) {
  state.SetItemsProcessed(state.iterations() * items);
}

// A guest's writes to granules that are marked already, spread over so much of the disk.
void set_again(benchmark::State& state) {
  const std::uint64_t working_set = state.range(0) * TiB;
  DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  const auto offsets = random_offsets(working_set);
  for (auto offset : offsets) bitmap.set({offset, 4 * KiB});
  for (auto _ : state)
    for (auto offset : offsets) benchmark::DoNotOptimize(bitmap.set({offset, 4 * KiB}));
  per_second(state, offsets.size());
}
BENCHMARK(set_again)->ArgName("TiB")->Arg(1)->Arg(16);

void set_and_clear_random(benchmark::State& state) {
  DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  const auto offsets = random_offsets(disk);
  for (auto _ : state) {
    for (auto offset : offsets) bitmap.set({offset, 4 * KiB});
    for (auto offset : offsets) bitmap.clear({align_down(offset, granule), granule});
  }
  per_second(state, 2 * offsets.size());
}
BENCHMARK(set_and_clear_random);

// First marks on a clean disk, in order: leaves come and, once full, go.
void set_sequential(benchmark::State& state) {
  constexpr std::uint64_t written = 256 * GiB;
  DirtyBitmap bitmap(disk, granule);
  for (auto _ : state) {
    for (std::uint64_t at = 0; at < written; at += granule) bitmap.set({at, granule});
    bitmap.clear_all();
  }
  per_second(state, written / granule);
}
BENCHMARK(set_sequential);

void test_random(benchmark::State& state) {
  const DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  const auto offsets = random_offsets(disk);
  for (auto _ : state)
    for (auto offset : offsets) benchmark::DoNotOptimize(bitmap.test(offset));
  per_second(state, offsets.size());
}
BENCHMARK(test_random);

void count_all(benchmark::State& state) {
  const DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(bitmap.count());
    benchmark::DoNotOptimize(bitmap.dirty_bytes());
  }
}
BENCHMARK(count_all);

std::int64_t walk(const DirtyBitmap& bitmap, std::uint64_t max_bytes) {
  DirtyAreas areas(bitmap, {0, bitmap.size()}, max_bytes);
  std::int64_t n = 0;
  while (auto area = areas.next()) ++n;
  return n;
}

// Every dirty area of 1 TiB with random bits: the most areas there can be.
void next_area_random(benchmark::State& state) {
  const DirtyBitmap bitmap = random_bitmap(TiB, granule, 1);
  std::int64_t n = 0;
  for (auto _ : state) n += walk(bitmap, 64 * MiB);
  state.SetItemsProcessed(n);
}
BENCHMARK(next_area_random);

// One dirty granule in a thousand.
void next_area_sparse(benchmark::State& state) {
  DirtyBitmap bitmap(disk, granule);
  Prng random(3);
  for (std::uint64_t i = 0; i < bitmap.granules() / 1000; ++i) bitmap.set({random.below(disk), 1});
  std::int64_t n = 0;
  for (auto _ : state) n += walk(bitmap, 64 * MiB);
  state.SetItemsProcessed(n);
}
BENCHMARK(next_area_sparse);

// The only dirty byte of 8 EiB in sectors.
void next_dirty_over_8EiB(benchmark::State& state) {
  DirtyBitmap bitmap(max_disk_size, 512);
  bitmap.set({max_disk_size - 1, 1});
  for (auto _ : state) benchmark::DoNotOptimize(bitmap.next_dirty(0));
}
BENCHMARK(next_dirty_over_8EiB);

// Speed of memory for the same bytes: one flat loop over two arrays, as wide as it gets.
typedef Word Vector __attribute__((vector_size(32), aligned(8), may_alias));

void or_flat(Word* to, const Word* from, std::size_t n) {
  Vector* wide_to = reinterpret_cast<Vector*>(to);
  const Vector* wide_from = reinterpret_cast<const Vector*>(from);
  for (std::size_t i = 0; i < n / 4; ++i) wide_to[i] |= wide_from[i];
  benchmark::ClobberMemory();
}

struct Flat {
  std::vector<Word> to;
  std::vector<Word> from;
  explicit Flat(std::uint64_t bits) : to(bits / 64), from(bits / 64) {
    Prng random(5);
    for (Word& word : to) word = random();
    for (Word& word : from) word = random();
  }
};

void memory_copy(benchmark::State& state) {
  Flat flat(disk / granule);
  for (auto _ : state) {
    std::memcpy(flat.to.data(), flat.from.data(), flat.to.size() * 8);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * flat.to.size() * 8);
}
BENCHMARK(memory_copy)->Unit(benchmark::kMillisecond)->UseRealTime();

void memory_or(benchmark::State& state) {
  Flat flat(disk / granule);
  for (auto _ : state) or_flat(flat.to.data(), flat.from.data(), flat.to.size());
  state.SetBytesProcessed(state.iterations() * flat.to.size() * 8);
}
BENCHMARK(memory_or)->Unit(benchmark::kMillisecond)->UseRealTime();

// Turn about with the flat loop, so that a busy machine slows both: `of_memory` is the ratio.
void merge_random(benchmark::State& state) {
  using Clock = std::chrono::steady_clock;
  DirtyBitmap to = random_bitmap(disk, granule, 1);
  const DirtyBitmap from = random_bitmap(disk, granule, 2);
  Flat flat(disk / granule);
  Clock::duration flat_time{};
  Clock::duration merge_time{};
  for (auto _ : state) {
    const auto start = Clock::now();
    or_flat(flat.to.data(), flat.from.data(), flat.to.size());
    const auto middle = Clock::now();
    to.merge(from);
    const auto end = Clock::now();
    flat_time += middle - start;
    merge_time += end - middle;
    state.SetIterationTime(std::chrono::duration<double>(end - middle).count());
  }
  state.SetBytesProcessed(state.iterations() * (disk / granule / 8));
  state.counters["of_memory"] = std::chrono::duration<double>(flat_time) / merge_time;
}
BENCHMARK(merge_random)->Unit(benchmark::kMillisecond)->UseManualTime();

// Into a clean bitmap: as many leaves to allocate as to copy.
void merge_random_into_clean(benchmark::State& state) {
  const DirtyBitmap from = random_bitmap(disk, granule, 2);
  for (auto _ : state) {
    DirtyBitmap to(disk, granule);
    to.merge(from);
    benchmark::DoNotOptimize(to.count());
  }
  state.SetBytesProcessed(state.iterations() * (disk / granule / 8));
}
BENCHMARK(merge_random_into_clean)->Unit(benchmark::kMillisecond);

// Between granularities, 1 TiB: the bytes are those of the finer bitmap.
void merge_scaled(benchmark::State& state) {
  const std::uint64_t to_granule = state.range(0) * KiB;
  const std::uint64_t from_granule = state.range(1) * KiB;
  DirtyBitmap to = random_bitmap(TiB, to_granule, 1);
  const DirtyBitmap from = random_bitmap(TiB, from_granule, 2);
  for (auto _ : state) to.merge(from);
  state.SetBytesProcessed(state.iterations() * (TiB / std::min(to_granule, from_granule) / 8));
}
BENCHMARK(merge_scaled)
    ->Args({64, 32})
    ->Args({1024, 32})
    ->Args({32, 64})
    ->Args({32, 1024})
    ->Unit(benchmark::kMicrosecond);

void invert_random(benchmark::State& state) {
  DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  for (auto _ : state) bitmap.invert();
  state.SetBytesProcessed(state.iterations() * (disk / granule / 8));
}
BENCHMARK(invert_random)->Unit(benchmark::kMillisecond);

void clone_random(benchmark::State& state) {
  const DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  for (auto _ : state) benchmark::DoNotOptimize(bitmap.clone());
  state.SetBytesProcessed(state.iterations() * (disk / granule / 8));
}
BENCHMARK(clone_random)->Unit(benchmark::kMillisecond);

void store_and_load(benchmark::State& state) {
  DirtyBitmap bitmap = random_bitmap(disk, granule, 1);
  std::vector<std::byte> cluster(64 * KiB);
  for (auto _ : state) {
    for (std::uint64_t at = 0; at < bitmap.granules(); at += cluster.size() * 8) {
      bitmap.store_chunk(at, cluster);
      benchmark::DoNotOptimize(bitmap.load_chunk(at, cluster));
    }
  }
  state.SetBytesProcessed(state.iterations() * 2 * (disk / granule / 8));
}
BENCHMARK(store_and_load)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tidemark
