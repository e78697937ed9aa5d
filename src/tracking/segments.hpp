// Segments: how a bitmap lies in a snapshot.
//
// A segment is 32768 granules.  Clean ones have no entry; runs of wholly dirty ones have one entry and no
// bytes; the others are stored dense (one bit a granule) or sparse (16-bit numbers of the dirty ones),
// whichever is smaller.  Bytes and time follow what is dirty.
#pragma once

#include <functional>
#include <vector>

#include "base/error.hpp"
#include "bitmap/dirty_bitmap.hpp"
#include "tracking/codec.hpp"

namespace tidemark::tracking {

inline constexpr std::uint64_t segment_granules = DirtyBitmap::stretch_granules;
static_assert(segment_granules == 32768, "of the format");
inline constexpr std::size_t segment_bytes_max = segment_granules / 8;

struct Segment {
  // missing: its bytes lie where the file, which was cut short, does not reach any more.
  enum class Kind : std::uint8_t { dirty, dense, sparse, missing } kind = Kind::dirty;
  std::uint64_t index = 0;                // the first segment
  std::uint64_t count = 1;                // of segments; 1 unless wholly dirty
  std::uint32_t length = 0;               // bytes stored
  std::uint64_t position = 0;             // in the file
  std::uint64_t sum = 0;
  friend bool operator==(const Segment&, const Segment&) = default;
};
using SegmentTable = std::vector<Segment>;        // by index, not overlapping

void encode_table(Encoder& to, const SegmentTable& table);
// Checks what a reader relies on: order, lengths, places in `data`, which is all of the file that segments may be in.
Result<SegmentTable> decode_table(Decoder& from, std::uint64_t segments, Range data);

// The table of a bitmap, which stays as it is meanwhile, entry by entry.  A segment that is as it was in `before` keeps its
// bytes; for others place(bytes) answers their new position.
class SegmentWriter {
 public:
  using Place = std::function<std::uint64_t(Bytes)>;
  SegmentWriter(const DirtyBitmap& bitmap, const SegmentTable& before, std::uint64_t store_id, Place place)
      : bitmap_(bitmap), before_(before), old_(before.begin()), store_id_(store_id), place_(std::move(place)) {}

  bool step();                            // false: there is no more
  SegmentTable table;

 private:
  void add_mixed(Segment& segment);

  const DirtyBitmap& bitmap_;
  const SegmentTable& before_;
  SegmentTable::const_iterator old_;
  const std::uint64_t store_id_;
  const Place place_;
  std::uint64_t next_ = 0;
};

// Adds a segment to a bitmap: `bytes` are its stored ones.  False when they are not what the entry
// says; the segment is then to be dirtied whole.
[[nodiscard]] bool load_segment(DirtyBitmap& bitmap, const Segment& segment, Bytes bytes, std::uint64_t store_id);
// The bytes of the disk that a segment stands for.
Range range_of(const DirtyBitmap& bitmap, const Segment& segment) noexcept;
inline std::uint64_t segments_of(const DirtyBitmap& bitmap) noexcept {
  return div_up(bitmap.granules(), segment_granules);
}

}  // namespace tidemark::tracking
