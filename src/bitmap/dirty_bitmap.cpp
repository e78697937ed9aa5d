#include "bitmap/dirty_bitmap.hpp"

#include <algorithm>

namespace tidemark {

DirtyBitmap::DirtyBitmap(std::uint64_t size, std::uint64_t granularity) noexcept
    : size_(size), shift_(log2_of(granularity)) {
  TM_ASSERT(valid_granularity(granularity) && size <= max_disk_size);
  bits_ = BitTree(granules_of(size));
}

DirtyBitmap::DirtyBitmap(DirtyBitmap&& from) noexcept
    : size_(from.size_), shift_(from.shift_), bits_(std::move(from.bits_)), changes_(from.changes_) {
  ++from.changes_;
}

DirtyBitmap& DirtyBitmap::operator=(DirtyBitmap&& from) noexcept {
  size_ = from.size_;
  shift_ = from.shift_;
  bits_ = std::move(from.bits_);
  changes_ = std::max(changes_, from.changes_) + 1;
  ++from.changes_;
  return *this;
}

DirtyBitmap DirtyBitmap::clone() const noexcept { return {size_, shift_, bits_.clone()}; }

std::uint64_t DirtyBitmap::dirty_bytes() const noexcept {
  const std::uint64_t bytes = count() << shift_;
  const std::uint64_t overhang = (granules() << shift_) - size_;
  return overhang != 0 && test(size_ - 1) ? bytes - overhang : bytes;
}

bool DirtyBitmap::test(std::uint64_t offset) const noexcept {
  TM_ASSERT(offset < size_);
  return bits_.test(offset >> shift_);
}

std::optional<std::uint64_t> DirtyBitmap::next_dirty(std::uint64_t from) const noexcept {
  const std::uint64_t granule = bits_.find(from >> shift_, true);
  if (from >= size_ || granule == granules()) return std::nullopt;
  return std::max(from, granule << shift_);
}

std::optional<std::uint64_t> DirtyBitmap::next_clean(std::uint64_t from) const noexcept {
  const std::uint64_t granule = bits_.find(from >> shift_, false);
  if (from >= size_ || granule == granules()) return std::nullopt;
  return std::max(from, granule << shift_);
}

std::optional<Range> DirtyBitmap::next_dirty_area(std::uint64_t from, std::uint64_t end,
                                                  std::uint64_t max_bytes) const noexcept {
  end = std::min(end, size_);
  if (from >= end || max_bytes == 0) return std::nullopt;
  const Range run = bits_.find_run(from >> shift_);
  const std::uint64_t begin = std::max(from, run.offset << shift_);
  if (begin >= end) return std::nullopt;
  return Range{begin, std::min({end - begin, (run.end() << shift_) - begin, max_bytes})};
}

std::uint64_t DirtyBitmap::set(Range range) noexcept {
  TM_ASSERT(fits(range.offset, range.length, size_));
  if (range.empty()) return 0;
  const std::uint64_t grown = bits_.assign(range.offset >> shift_, granules_of(range.end()), true);
  if (grown != 0) ++changes_;
  return grown;
}

std::uint64_t DirtyBitmap::clear(Range range) noexcept {
  TM_ASSERT(fits(range.offset, range.length, size_));
  const std::uint64_t first = granules_of(range.offset);
  const std::uint64_t last = range.end() == size_ ? granules() : range.end() >> shift_;
  return first < last ? changed().assign(first, last, false) : 0;
}

void DirtyBitmap::truncate(std::uint64_t new_size) noexcept {
  TM_ASSERT(new_size <= max_disk_size);
  changed().resize(granules_of(new_size));
  size_ = new_size;
}

void DirtyBitmap::merge(const DirtyBitmap& other) noexcept {
  const std::uint64_t before = count();
  if (other.shift_ == shift_)
    bits_.merge(other.bits_);
  else if (other.shift_ < shift_)
    merge_finer(other);
  else
    merge_coarser(other);
  if (count() != before) ++changes_;
}

}  // namespace tidemark
