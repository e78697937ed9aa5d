// DirtyBitmap on disks up to 8 EiB against a model that keeps the dirty granules as intervals.
#include <gtest/gtest.h>

#include <map>

#include "base/random.hpp"
#include "bitmap/dirty_bitmap.hpp"
#include "bitmap/property_ops.hpp"

namespace tidemark {
namespace {

// Disjoint, sorted intervals of bytes that are multiples of the granularity.
struct Model {
  std::uint64_t size;
  std::uint64_t granularity;
  std::map<std::uint64_t, std::uint64_t> dirty;  // from -> to

  std::uint64_t limit() const { return align_up(size, granularity); }

  void remove(std::uint64_t from, std::uint64_t to) {
    std::map<std::uint64_t, std::uint64_t> left;
    for (const auto& [begin, end] : dirty) {
      if (begin < std::min(end, from)) left[begin] = std::min(end, from);
      if (std::max(begin, to) < end) left[std::max(begin, to)] = end;
    }
    dirty = std::move(left);
  }
  void add(std::uint64_t from, std::uint64_t to) {
    if (from >= to) return;
    std::map<std::uint64_t, std::uint64_t> all;
    for (const auto& [begin, end] : dirty) {
      if (end < from || begin > to) {
        all[begin] = end;
      } else {
        from = std::min(from, begin);
        to = std::max(to, end);
      }
    }
    all[from] = to;
    dirty = std::move(all);
  }
  void set(Range range) {
    if (!range.empty())
      add(align_down(range.offset, granularity), align_up(range.end(), granularity));
  }
  void clear(Range range) {
    const std::uint64_t to = range.end() == size ? limit() : align_down(range.end(), granularity);
    const std::uint64_t from = align_up(range.offset, granularity);
    if (from < to) remove(from, to);
  }
  void invert() {
    std::map<std::uint64_t, std::uint64_t> clean;
    std::uint64_t at = 0;
    for (const auto& [begin, end] : dirty) {
      if (at < begin) clean[at] = begin;
      at = end;
    }
    if (at < limit()) clean[at] = limit();
    dirty = std::move(clean);
  }
  void truncate(std::uint64_t new_size) {
    size = new_size;
    remove(limit(), ~std::uint64_t{0});
  }
  void merge(const Model& other) {
    for (const auto& [begin, end] : other.dirty) {
      const std::uint64_t to = std::min({end, other.size, size});
      if (begin < to) set({begin, to - begin});
    }
  }
};

struct Pair {
  DirtyBitmap bitmap;
  Model model;

  Pair(std::uint64_t size, std::uint64_t granularity)
      : bitmap(size, granularity), model{size, granularity, {}} {}
};

std::uint64_t any_size(std::uint64_t number) {
  return pick_below(number >> 8, 512, max_disk_size >> (number % 40)) + 1;
}

void merge(Pair& pair, const BitmapOp& op) {
  // At most nine steps finer: a set granule of 2 GiB in sectors would be 4 Mi marks in a merge
  // back.
  const std::uint64_t size = op.a % 2 ? pair.model.size : any_size(op.a >> 1);
  Pair other(size, 512u << op.b % 23);
  Prng random(op.a);
  for (int i = 0; i < 10; ++i) {
    const Range range = pick_range(random(), random(), other.model.granularity, size);
    other.bitmap.set(range);
    other.model.set(range);
  }
  pair.bitmap.merge(other.bitmap);
  pair.model.merge(other.model);
}

void reload(DirtyBitmap& bitmap, const BitmapOp& op) {
  const std::uint64_t first = align_down(pick_below(op.a, 1, bitmap.granules() + 1), 64);
  std::vector<std::byte> chunk(64 * KiB);
  bitmap.store_chunk(first, chunk);
  const DirtyBitmap before = bitmap.clone();
  const std::uint64_t from = std::min(first * bitmap.granularity(), bitmap.size());
  const std::uint64_t length = chunk.size() * 8 * bitmap.granularity();
  bitmap.clear({from, std::min(length, bitmap.size() - from)});
  RC_ASSERT(bitmap.chunk_fill(first, chunk.size() * 8) == DirtyBitmap::Fill::clean);
  RC_ASSERT(bitmap.load_chunk(first, chunk));
  RC_ASSERT(bitmap == before);
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
      model.set({0, model.size});
      break;
    case BitmapOp::clear_all:
      bitmap.clear_all();
      model.dirty.clear();
      break;
    case BitmapOp::invert:
      bitmap.invert();
      model.invert();
      break;
    case BitmapOp::truncate: {
      const std::uint64_t size = any_size(op.a);
      bitmap.truncate(size);
      model.truncate(size);
      break;
    }
    case BitmapOp::merge: merge(pair, op); break;
    case BitmapOp::reload: reload(bitmap, op); break;
    case BitmapOp::take: pair.bitmap = pair.bitmap.take(); break;
    case BitmapOp::kinds: break;
  }
}

void compare(const DirtyBitmap& bitmap, const Model& model) {
  DirtyBitmap fresh(model.size, model.granularity);
  DirtyAreas areas(bitmap, {0, model.size});
  std::uint64_t granules = 0;
  std::uint64_t bytes = 0;
  for (const auto& [begin, end] : model.dirty) {
    const Range expected{begin, std::min(end, model.size) - begin};
    RC_ASSERT(areas.next() == expected);
    fresh.set(expected);
    granules += (end - begin) / model.granularity;
    bytes += expected.length;
    RC_ASSERT(bitmap.next_clean(begin) == (end < model.size ? std::optional(end) : std::nullopt));
  }
  RC_ASSERT(areas.next() == std::nullopt);
  RC_ASSERT(bitmap.count() == granules);
  RC_ASSERT(bitmap.dirty_bytes() == bytes);
  RC_ASSERT(fresh == bitmap);
  RC_ASSERT(fresh.memory_bytes() == bitmap.memory_bytes());
}

RC_GTEST_PROP(BitmapProperty, BehavesAsIntervalsOnHugeDisks, (const std::vector<BitmapOp>& ops)) {
  Pair pair(any_size(*any_number()), 512u << *rc::gen::inRange(0, 23));
  for (const BitmapOp& op : ops) {
    apply(pair, op);
    compare(pair.bitmap, pair.model);
  }
}

}  // namespace
}  // namespace tidemark
