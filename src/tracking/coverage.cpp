#include "tracking/coverage.hpp"

namespace tidemark::tracking {

void intersect(DirtyBitmap& set, const DirtyBitmap& other) {
  TM_ASSERT(other.granularity() >= set.granularity());
  DirtyBitmap outside = other.clone();
  outside.invert();
  set.invert();
  set.merge(outside);
  set.invert();
}

void subtract(DirtyBitmap& set, const DirtyBitmap& other) {
  TM_ASSERT(other.granularity() == set.granularity());
  set.invert();
  set.merge(other);
  set.invert();
}

DirtyBitmap with_granularity(const DirtyBitmap& set, std::uint64_t size, std::uint64_t granularity) {
  DirtyBitmap result(size, granularity);
  result.merge(set);
  return result;
}

}  // namespace tidemark::tracking
