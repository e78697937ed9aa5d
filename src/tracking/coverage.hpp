// Algebra of what is durable, on bitmaps that may differ in granularity.
#pragma once

#include <vector>

#include "bitmap/dirty_bitmap.hpp"

namespace tidemark::tracking {

// Leaves in `set` what is in `other` too; the granularity of `other` is that of `set` or a multiple.  Of another
// size (the disk has been resized): what is beyond its end is not in it.
void intersect(DirtyBitmap& set, const DirtyBitmap& other);
// Takes from `set` what is in `other`, of the same granularity and size.
void subtract(DirtyBitmap& set, const DirtyBitmap& other);
// The same set in granules of another size; exact when they are smaller.
DirtyBitmap with_granularity(const DirtyBitmap& set, std::uint64_t size, std::uint64_t granularity);
// Is all of the range in the set?
inline bool covers(const DirtyBitmap& set, Range range) noexcept {
  if (range.empty()) return true;
  if (range.end() > set.size()) return false;
  const bool one_granule = ((range.offset ^ (range.end() - 1)) & ~(set.granularity() - 1)) == 0;
  if (one_granule) return set.test(range.offset);
  const auto clean = set.next_clean(range.offset);
  return !clean || *clean >= range.end();
}

}  // namespace tidemark::tracking
