// DirtyBitmap against the plainest model there is, a vector of bools, over random operations.
#include <gtest/gtest.h>

#include "base/random.hpp"
#include "bitmap/dirty_bitmap.hpp"
#include "bitmap/property_ops.hpp"

namespace tidemark {
namespace {

struct Model {
  std::uint64_t size;
  std::uint64_t granularity;
  std::vector<bool> dirty;

  Model(std::uint64_t disk, std::uint64_t granule)
      : size(disk), granularity(granule), dirty(div_up(disk, granule)) {}
  std::uint64_t begin_of(std::size_t i) const { return i * granularity; }
  std::uint64_t end_of(std::size_t i) const { return std::min((i + 1) * granularity, size); }

  void set(Range range) {
    if (range.empty()) return;
    for (std::size_t i = range.offset / granularity; begin_of(i) < range.end(); ++i)
      dirty[i] = true;
  }
  void clear(Range range) {
    for (std::size_t i = range.offset / granularity; i < dirty.size(); ++i) {
      if (end_of(i) > range.end()) break;
      if (range.offset <= begin_of(i)) dirty[i] = false;
    }
  }
  void truncate(std::uint64_t new_size) {
    size = new_size;
    dirty.resize(div_up(new_size, granularity), false);
  }
  void merge(const Model& other) {
    for (std::size_t i = 0; i < other.dirty.size(); ++i) {
      const std::uint64_t end = std::min(other.end_of(i), size);
      if (!other.dirty[i] || other.begin_of(i) >= end) continue;
      for (std::size_t j = other.begin_of(i) / granularity; j < div_up(end, granularity); ++j)
        dirty[j] = true;
    }
  }
};

struct Pair {
  DirtyBitmap bitmap;
  Model model;

  Pair(std::uint64_t size, std::uint64_t granularity)
      : bitmap(size, granularity), model(size, granularity) {}
};

// A disk of up to about four leaves, with some bytes in its last granule.
Pair any_disk(std::uint64_t number) {
  const std::uint64_t granularity = 512u << number % 3;
  static constexpr std::uint64_t granules[] = {0,     1,     63,    64,    65,     1000,  32767,
                                               32768, 32769, 65536, 70000, 131072, 131100};
  const std::uint64_t count = granules[(number >> 8) % std::size(granules)];
  const std::uint64_t cut = count != 0 ? (number >> 16) % 3 * 100 : 0;
  return {count * granularity - cut, granularity};
}

void scatter(Pair& pair, std::uint64_t seed) {
  Prng random(seed);
  if (pair.model.size == 0) return;
  for (int i = 0; i < 40; ++i) {
    const Range range =
        pick_range(random(), random() & ~std::uint64_t{1}, pair.model.granularity, pair.model.size);
    pair.bitmap.set(range);
    pair.model.set(range);
  }
  if (seed % 4 == 0) {
    pair.bitmap.invert();
    pair.model.dirty.flip();
  }
}

// Through the dense form in chunks of several sizes, into a bitmap that was full of other marks.
DirtyBitmap reloaded(const DirtyBitmap& from, std::uint64_t number) {
  DirtyBitmap to(from.size(), from.granularity());
  if (number % 2) to.set_all();
  const std::size_t chunk_size = 8 << (number >> 1) % 12;
  std::vector<std::byte> chunk(chunk_size);
  for (std::uint64_t at = 0; at < from.dense_bytes(); at += chunk_size) {
    from.store_chunk(at * 8, chunk);
    RC_ASSERT(to.load_chunk(at * 8, chunk));
    const auto fill = from.chunk_fill(at * 8, chunk_size * 8);
    if (fill == DirtyBitmap::Fill::clean) RC_ASSERT(is_zero(chunk));
  }
  return to;
}

void merge(Pair& pair, const BitmapOp& op) {
  Pair other = any_disk(op.a);
  if (op.a >> 20 & 1) other = Pair(pair.model.size, other.model.granularity);
  scatter(other, op.b);
  pair.bitmap.merge(other.bitmap);
  pair.model.merge(other.model);
}

void apply(Pair& pair, const BitmapOp& op) {
  auto& [bitmap, model] = pair;
  const Range range = pick_range(op.a, op.b, model.granularity, model.size);
  switch (op.kind) {
    case BitmapOp::set:
      bitmap.set(range);
      model.set(range);
      break;
    case BitmapOp::clear:
      bitmap.clear(range);
      model.clear(range);
      break;
    case BitmapOp::clear_aligned: {
      const Range wide = range.widened(model.granularity).intersect({0, model.size});
      bitmap.clear(wide);
      model.clear(wide);
      break;
    }
    case BitmapOp::set_all:
      bitmap.set_all();
      model.dirty.assign(model.dirty.size(), true);
      break;
    case BitmapOp::clear_all:
      bitmap.clear_all();
      model.dirty.assign(model.dirty.size(), false);
      break;
    case BitmapOp::invert:
      bitmap.invert();
      model.dirty.flip();
      break;
    case BitmapOp::truncate: {
      const std::uint64_t size = pick_below(op.a, model.granularity, 150000 * model.granularity);
      bitmap.truncate(size);
      model.truncate(size);
      break;
    }
    case BitmapOp::merge: merge(pair, op); break;
    case BitmapOp::reload: bitmap = reloaded(bitmap, op.a); break;
    case BitmapOp::take: {
      const DirtyBitmap taken = bitmap.take();
      RC_ASSERT(bitmap.empty());
      bitmap.merge(taken);
      break;
    }
    case BitmapOp::kinds: break;
  }
}

void compare_areas(const DirtyBitmap& bitmap, const Model& model) {
  DirtyAreas areas(bitmap, {0, model.size});
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < model.dirty.size(); ++i) {
    if (!model.dirty[i]) continue;
    const std::size_t first = i;
    while (i < model.dirty.size() && model.dirty[i]) ++i;
    const Range expected{model.begin_of(first), model.end_of(i - 1) - model.begin_of(first)};
    RC_ASSERT(areas.next() == expected);
    bytes += expected.length;
  }
  RC_ASSERT(areas.next() == std::nullopt);
  RC_ASSERT(bitmap.dirty_bytes() == bytes);
}

void compare_searches(const DirtyBitmap& bitmap, const Model& model, std::uint64_t number) {
  if (model.size == 0) return;
  const std::uint64_t from = pick_below(number, model.granularity, model.size);
  for (bool value : {true, false}) {
    std::size_t i = from / model.granularity;
    while (i < model.dirty.size() && model.dirty[i] != value) ++i;
    const auto found = value ? bitmap.next_dirty(from) : bitmap.next_clean(from);
    if (i == model.dirty.size())
      RC_ASSERT(found == std::nullopt);
    else
      RC_ASSERT(found == std::max(from, model.begin_of(i)));
  }
  RC_ASSERT(bitmap.test(from) == model.dirty[from / model.granularity]);
}

// A bitmap is settled: built afresh from its areas, it is the same and has the same memory.
void compare_shape(const DirtyBitmap& bitmap) {
  DirtyBitmap fresh(bitmap.size(), bitmap.granularity());
  DirtyAreas areas(bitmap, {0, bitmap.size()});
  while (auto area = areas.next()) fresh.set(*area);
  RC_ASSERT(fresh == bitmap);
  RC_ASSERT(fresh.memory_bytes() == bitmap.memory_bytes());
  const DirtyBitmap copy = bitmap.clone();
  RC_ASSERT(copy == bitmap);
  RC_ASSERT(copy.memory_bytes() == bitmap.memory_bytes());
}

RC_GTEST_PROP(BitmapProperty, BehavesAsAVectorOfBools, (const std::vector<BitmapOp>& ops)) {
  Pair pair = any_disk(*any_number());
  for (const BitmapOp& op : ops) {
    apply(pair, op);
    RC_ASSERT(pair.bitmap.size() == pair.model.size);
    RC_ASSERT(pair.bitmap.granules() == pair.model.dirty.size());
    RC_ASSERT(pair.bitmap.count() ==
              static_cast<std::uint64_t>(std::ranges::count(pair.model.dirty, true)));
    compare_searches(pair.bitmap, pair.model, op.a ^ op.b);
  }
  compare_areas(pair.bitmap, pair.model);
  compare_shape(pair.bitmap);
}

RC_GTEST_PROP(BitmapProperty, MergesAcrossAllGranularities, ()) {
  const auto number = any_number();
  const std::uint64_t size = *number % (40 * MiB) + 1;
  Pair to(size, 512u << *rc::gen::inRange(0, 23));
  Pair from(*rc::gen::arbitrary<bool>() ? size : *number % (40 * MiB) + 1,
            512u << *rc::gen::inRange(0, 23));
  scatter(to, *number);
  scatter(from, *number);
  to.bitmap.merge(from.bitmap);
  to.model.merge(from.model);
  compare_areas(to.bitmap, to.model);
  compare_shape(to.bitmap);
}

}  // namespace
}  // namespace tidemark
