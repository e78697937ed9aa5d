// DirtyBitmap: which granules of a disk changed.
//
// One bit a granule, in leaves that exist only where a stretch is neither all clean nor all dirty, of
// 4 KiB or, with few dirty granules in them, a cache line: 1 TiB at 32 KiB costs at most 4.1 MiB, a clean
// disk of any size next to nothing, 20,000 dirty granules strewn over 16 TiB less than 1 MiB.
#pragma once

#include <optional>
#include <span>

#include "base/bytes.hpp"
#include "base/units.hpp"
#include "bitmap/bit_tree.hpp"

namespace tidemark {

// A value: owned by one, used by one thread at a time.  Copies are explicit (clone), for they cost
// memory.  Offsets and ranges are bytes of the disk and must lie within it (asserted).  Nothing
// fails; out of memory ends the process.  A query goes at most twice down a tree of eight levels
// and through a leaf, whatever lies between; changes cost that and what is mixed in their range.
class DirtyBitmap {
 public:
  static constexpr std::uint64_t granularity_min = 512;
  static constexpr std::uint64_t granularity_max = 2 * GiB;
  static constexpr bool valid_granularity(std::uint64_t granularity) noexcept {
    return is_power_of_two(granularity) && granularity >= granularity_min &&
           granularity <= granularity_max;
  }

  // All clean.  `size` is at most max_disk_size, the granularity valid.
  DirtyBitmap(std::uint64_t size, std::uint64_t granularity) noexcept;
  DirtyBitmap(DirtyBitmap&& from) noexcept;  // leaves a clean bitmap of that size
  DirtyBitmap& operator=(DirtyBitmap&& from) noexcept;
  DirtyBitmap clone() const noexcept;

  std::uint64_t size() const noexcept { return size_; }  // of the disk, in bytes
  std::uint64_t granularity() const noexcept { return std::uint64_t{1} << shift_; }
  std::uint64_t granules() const noexcept { return bits_.size(); }
  std::size_t memory_bytes() const noexcept { return sizeof *this + bits_.heap_bytes(); }

  // How much is dirty, in granules (O(1)) and in bytes of the disk: the last granule counts only up
  // to the end (QEMU's `count` is granules times granularity).
  std::uint64_t count() const noexcept { return bits_.count(); }
  std::uint64_t dirty_bytes() const noexcept;
  bool empty() const noexcept { return count() == 0; }
  // Another one than ever before whenever this bitmap's granules may have changed; not what a write sets that is set.
  std::uint64_t changes() const noexcept { return changes_; }

  bool test(std::uint64_t offset) const noexcept;
  // The first dirty (clean) byte at or after `from`; none from the end on.
  std::optional<std::uint64_t> next_dirty(std::uint64_t from) const noexcept;
  std::optional<std::uint64_t> next_clean(std::uint64_t from) const noexcept;
  // The first dirty bytes within [from, end), in one piece of at most `max_bytes`.
  std::optional<Range> next_dirty_area(std::uint64_t from, std::uint64_t end,
                                       std::uint64_t max_bytes = max_disk_size) const noexcept;

  // Marks every granule that the range touches; answers how many were clean before.
  std::uint64_t set(Range range) noexcept;
  // Unmarks the granules that lie wholly in the range, so that a mark is never lost to a neighbour;
  // the last granule of the disk is whole up to the end.  Answers how many were dirty before.
  std::uint64_t clear(Range range) noexcept;
  void set_all() noexcept { changed().assign_all(true); }
  void clear_all() noexcept { changed().assign_all(false); }
  void invert() noexcept { changed().invert(); }

  // Adds what is dirty in the other, up to this size.  Between granularities, a granule becomes
  // dirty when a dirty one of the other touches it.
  void merge(const DirtyBitmap& other) noexcept;
  // Hands over what is dirty and leaves this clean.
  [[nodiscard]] DirtyBitmap take() noexcept { return std::move(*this); }
  // Marks beyond a smaller size are lost; what a larger one adds is clean, except for the rest of a
  // dirty last granule.
  void truncate(std::uint64_t new_size) noexcept;

  // The dense form, as qcow2 and QEMU's migration keep it: bit i of byte n is granule 8n + i.
  // A chunk is any part of it that begins at a multiple of 64 granules and has a multiple of 8
  // bytes or reaches the last granule; what it has beyond that is zero when stored, ignored when
  // loaded.
  std::uint64_t dense_bytes() const noexcept { return div_up(granules(), 8); }
  void store_chunk(std::uint64_t first_granule, MutableBytes chunk) const noexcept;
  // Replaces the chunk's granules.  False when bits beyond the last granule are set, which a
  // format may forbid.
  bool load_chunk(std::uint64_t first_granule, Bytes chunk) noexcept;
  // Strewn marks, without their dense form.  A stretch is the 32768 granules from a multiple of 32768 on, and its dirty ones
  // are told by their numbers in it: in ascending order where there are few; none where there are not, or none at all.
  static constexpr std::uint64_t stretch_granules = Leaf::bits;
  static constexpr std::size_t few_max = Leaf::few_max;
  std::span<const std::uint16_t> few_at(std::uint64_t first_granule) const noexcept;
  // Marks a stretch's granules.  False, and nothing is marked, when one of them is beyond the last.
  bool set_few(std::uint64_t first_granule, std::span<const std::uint16_t> numbers) noexcept;
  // Whether a chunk's granules are alike, found without looking at each.
  enum class Fill : std::uint8_t { clean, dirty, mixed };
  Fill chunk_fill(std::uint64_t first_granule, std::uint64_t granules) const noexcept;

  // The dense form as native 64-bit words, in order: visit(std::span<const Word>), at most 512 at a
  // time and at least one in all, for a disk of no bytes too.  QEMU digests these words for
  // x-debug-block-dirty-bitmap-sha256.  Its cost follows the disk, not the marks.
  template <class Visit>
  void for_each_words(Visit visit) const {
    Word scratch[Leaf::size];
    const std::uint64_t end = granules() != 0 ? granules() : 1;
    for (std::uint64_t granule = 0; granule < end; granule += Leaf::bits)
      visit(words_at(granule, scratch));
  }

  // The same disk, the same granules, the same marks.
  friend bool operator==(const DirtyBitmap& a, const DirtyBitmap& b) noexcept {
    return a.size_ == b.size_ && a.shift_ == b.shift_ && a.bits_ == b.bits_;
  }

 private:
  DirtyBitmap(std::uint64_t size, unsigned shift, BitTree bits) noexcept
      : size_(size), shift_(shift), bits_(std::move(bits)) {}

  BitTree& changed() noexcept {
    ++changes_;
    return bits_;
  }
  std::uint64_t granules_of(std::uint64_t bytes) const noexcept {
    return div_up(bytes, granularity());
  }
  std::span<const Word> words_at(std::uint64_t granule, std::span<Word> scratch) const noexcept;
  void merge_finer(const DirtyBitmap& other) noexcept;
  void merge_coarser(const DirtyBitmap& other) noexcept;
  void merge_spread(const Leaf& leaf, std::uint64_t first, unsigned ratio,
                    std::uint64_t end) noexcept;

  std::uint64_t size_;
  unsigned shift_;  // log2 of the granularity
  BitTree bits_;    // one a granule
  std::uint64_t changes_ = 0;
};

// The dirty areas of a range, in order, for loops that copy: each lies within one granule-aligned
// stretch of dirty bytes and has at most `max_bytes`.  Keeps a position only, so that the bitmap
// may change between two calls (areas behind the position are not seen again), but must outlive
// this.
class DirtyAreas {
 public:
  DirtyAreas(const DirtyBitmap& bitmap, Range within,
             std::uint64_t max_bytes = max_disk_size) noexcept
      : bitmap_(bitmap), at_(within.offset), end_(within.end()), max_bytes_(max_bytes) {}

  std::optional<Range> next() noexcept {
    const auto area = bitmap_.next_dirty_area(at_, end_, max_bytes_);
    at_ = area ? area->end() : end_;
    return area;
  }
  // Where the next search begins.
  std::uint64_t position() const noexcept { return at_; }
  void seek(std::uint64_t offset) noexcept { at_ = offset; }

 private:
  const DirtyBitmap& bitmap_;
  std::uint64_t at_;
  std::uint64_t end_;
  std::uint64_t max_bytes_;
};

}  // namespace tidemark
