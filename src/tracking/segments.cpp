#include "tracking/segments.hpp"

#include <algorithm>
#include <array>

#include "tracking/checksum.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t entry_bytes = 40;

// One segment's bytes, in the smaller form.
struct Content {
  Segment::Kind kind = Segment::Kind::dense;
  std::size_t length = 0;
  std::array<std::byte, segment_bytes_max> bytes;
  Bytes view() const { return Bytes(bytes).first(length); }
};

Content sparse_content(std::span<const std::uint16_t> numbers) {
  Content content;
  content.kind = Segment::Kind::sparse;
  content.length = numbers.size_bytes();
  for (std::size_t at = 0; at < numbers.size(); ++at) store_le(content.bytes.data() + at * sizeof numbers[at], numbers[at]);
  return content;
}

Content content_of(const DirtyBitmap& bitmap, std::uint64_t index) {
  const auto few = bitmap.few_at(index * segment_granules);
  if (!few.empty()) return sparse_content(few);
  std::array<std::byte, segment_bytes_max> dense;
  bitmap.store_chunk(index * segment_granules, dense);
  std::size_t set = 0;
  for (std::size_t at = 0; at < dense.size(); at += 8)
    if (const auto bits = load_le<std::uint64_t>(dense.data() + at)) set += static_cast<std::size_t>(std::popcount(bits));
  Content content;                        // its bytes are not touched before they are needed
  if (set * sizeof(std::uint16_t) >= dense.size()) {
    content.length = dense.size();
    content.bytes = dense;
    return content;
  }
  content.kind = Segment::Kind::sparse;
  for (std::size_t word = 0; word < dense.size() / 8; ++word)
    for (auto bits = load_le<std::uint64_t>(dense.data() + word * 8); bits != 0; bits &= bits - 1) {
      const auto granule = static_cast<std::uint16_t>(word * 64 + static_cast<unsigned>(std::countr_zero(bits)));
      store_le(content.bytes.data() + content.length, granule);
      content.length += sizeof granule;
    }
  return content;
}

// Where no file reaches.
constexpr std::uint64_t nowhere = max_disk_size - segment_bytes_max;

bool possible(const Segment& s, std::uint64_t next, std::uint64_t segments, Range data) {
  if (s.index < next || s.count == 0 || !fits(s.index, s.count, segments)) return false;
  switch (s.kind) {
    case Segment::Kind::dirty: return s.length == 0;
    case Segment::Kind::dense: if (s.length != segment_bytes_max) return false; break;
    case Segment::Kind::sparse: if (s.length == 0 || s.length % 2 != 0 || s.length >= segment_bytes_max) return false; break;
    default: return false;
  }
  return s.count == 1 && s.position >= data.offset && fits(s.position, s.length, max_disk_size);
}

Segment as_stored(Segment s) {
  if (s.kind != Segment::Kind::missing) return s;
  s.kind = Segment::Kind::dense;
  s.length = segment_bytes_max;
  s.position = nowhere;
  return s;
}

Segment as_found(Segment s, Range data) {
  if (s.length == 0 || fits(s.position, s.length, data.end())) return s;
  Segment missing;
  missing.kind = Segment::Kind::missing;
  missing.index = s.index;
  return missing;
}

}  // namespace

void encode_table(Encoder& to, const SegmentTable& table) {
  to.put(std::uint64_t{table.size()});
  for (const Segment& segment : table) {
    const Segment s = as_stored(segment);
    to.put(s.index).put(s.count).put(static_cast<std::uint32_t>(s.kind)).put(s.length).put(s.position).put(s.sum);
  }
}

Result<SegmentTable> decode_table(Decoder& from, std::uint64_t segments, Range data) {
  const auto entries = from.get<std::uint64_t>();
  if (entries > from.left() / entry_bytes) return Error(Errc::corrupt, "table of segments is cut off");
  SegmentTable table;
  table.reserve(entries);
  std::uint64_t next = 0;
  for (std::uint64_t i = 0; i < entries; ++i) {
    Segment s;
    s.index = from.get<std::uint64_t>();
    s.count = from.get<std::uint64_t>();
    s.kind = static_cast<Segment::Kind>(std::min<std::uint32_t>(from.get<std::uint32_t>(), 255));
    s.length = from.get<std::uint32_t>();
    s.position = from.get<std::uint64_t>();
    s.sum = from.get<std::uint64_t>();
    if (!possible(s, next, segments, data)) return Error(Errc::corrupt, "entry of a segment makes no sense");
    next = s.index + s.count;
    table.push_back(as_found(s, data));
  }
  return table;
}

Range range_of(const DirtyBitmap& bitmap, const Segment& segment) noexcept {
  const std::uint64_t first = segment.index * segment_granules;
  const std::uint64_t end = std::min(bitmap.granules(), first + segment.count * segment_granules);
  const std::uint64_t from = first * bitmap.granularity();
  const std::uint64_t to = end == bitmap.granules() ? bitmap.size() : end * bitmap.granularity();
  return {from, to - from};
}

bool SegmentWriter::step() {
  if (next_ >= segments_of(bitmap_)) return false;
  const std::uint64_t segment_size = segment_granules * bitmap_.granularity();     // at most 2^46
  const auto at = bitmap_.next_dirty(next_ * segment_size);
  if (!at) return false;
  Segment segment;
  segment.index = *at / segment_size;
  if (bitmap_.chunk_fill(segment.index * segment_granules, segment_granules) == DirtyBitmap::Fill::dirty) {
    const auto clean = bitmap_.next_clean(segment.index * segment_size);
    segment.count = (clean ? *clean / segment_size : segments_of(bitmap_)) - segment.index;
  } else {
    add_mixed(segment);
  }
  table.push_back(segment);
  next_ = segment.index + segment.count;
  return true;
}

void SegmentWriter::add_mixed(Segment& segment) {
  const Content content = content_of(bitmap_, segment.index);
  segment.kind = content.kind;
  segment.length = static_cast<std::uint32_t>(content.length);
  segment.sum = checksum(content.view(), store_id_);
  while (old_ != before_.end() && old_->index < segment.index) ++old_;
  const bool same = old_ != before_.end() && old_->index == segment.index && old_->kind == segment.kind &&
                    old_->length == segment.length && old_->sum == segment.sum;
  segment.position = same ? old_->position : place_(content.view());
}

bool load_segment(DirtyBitmap& bitmap, const Segment& segment, Bytes bytes, std::uint64_t store_id) {
  const Range range = range_of(bitmap, segment);
  if (segment.kind == Segment::Kind::dirty) {
    bitmap.set(range);
    return true;
  }
  if (segment.kind == Segment::Kind::missing) return false;
  if (bytes.size() != segment.length || checksum(bytes, store_id) != segment.sum) return false;
  const std::uint64_t first = segment.index * segment_granules;
  if (segment.kind == Segment::Kind::dense) {
    const std::uint64_t granules = std::min(segment_granules, bitmap.granules() - first);
    const Bytes chunk = bytes.first(align_up(div_up(granules, 8), 8));
    if (bitmap.chunk_fill(first, granules) == DirtyBitmap::Fill::clean) return bitmap.load_chunk(first, chunk);
    DirtyBitmap added(bitmap.size(), bitmap.granularity());        // a chunk that is loaded replaces what is there
    const bool whole = added.load_chunk(first, chunk);
    bitmap.merge(added);
    return whole;
  }
  std::array<std::uint16_t, segment_bytes_max / 2> numbers;
  const std::size_t n = bytes.size() / 2;
  for (std::size_t at = 0; at < n; ++at) numbers[at] = load_le<std::uint16_t>(bytes.data() + at * 2);
  return bitmap.set_few(first, std::span(numbers).first(n));
}

}  // namespace tidemark::tracking
