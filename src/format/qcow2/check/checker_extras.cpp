// What else refers to clusters: internal snapshots, the encryption header, persistent bitmaps.
#include <algorithm>

#include "format/qcow2/check/checker.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t snapshot_bytes = 40, snapshot_extra_max = 1024;
constexpr std::uint64_t snapshot_extra_min = 16;         // of version 3
constexpr std::uint64_t bitmap_entry_bytes = 24, bitmaps_max = 65535;
constexpr std::uint64_t directory_bytes_max = bitmaps_max * align_up(bitmap_entry_bytes + 1023, 8);
constexpr std::uint64_t bitmap_table_reserved = 0xff000000000001fe;
constexpr std::uint64_t bitmap_table_entries_max = std::uint64_t{1} << 27;

}  // namespace

Task<> Checker::count_snapshots() {
  std::uint64_t at = header_.snapshots_at.value;
  for (std::uint64_t i = 0; i < header_.snapshots; ++i) {
    co_await go_on();
    const bool readable = co_await count_snapshot(i, at);
    if (!readable) co_return;                            // nobody knows where the next one begins
  }
  if (header_.snapshots != 0) count(header_.snapshots_at.value, at - header_.snapshots_at.value);
}

Task<bool> Checker::count_snapshot(std::uint64_t index, std::uint64_t& at) {
  std::byte fields[snapshot_bytes];
  if (!fits(at, snapshot_bytes, file_size_)) {
    corrupt("ERROR snapshot table entry {} lies beyond the end of the file", index);
    co_return false;
  }
  co_await read(at, fields);
  const HostOffset l1_at{load_be<std::uint64_t>(fields)};
  const std::uint64_t l1_entries = load_be<std::uint32_t>(fields + 8);
  const std::uint64_t id = load_be<std::uint16_t>(fields + 12), name = load_be<std::uint16_t>(fields + 14);
  const std::uint64_t extra = load_be<std::uint32_t>(fields + 36);
  if (extra > snapshot_extra_max) {
    corrupt("ERROR snapshot table entry {} has too much extra metadata: {} bytes", index, extra);
    co_return false;
  }
  if (geometry().version >= 3 && extra < snapshot_extra_min) corrupt("ERROR snapshot table entry {} is incomplete", index);
  at += align_up(snapshot_bytes + extra + id + name, 8);
  if (l1_entries * entry_bytes > l1_bytes_max || !geometry().cluster_aligned(l1_at.value)) {
    corrupt("ERROR snapshot {} l1_offset={x} l1_size={}: L1 table is not cluster aligned or too large; "
            "snapshot table entry corrupted", index, l1_at.value, l1_entries);
    co_return true;
  }
  co_await count_l1(l1_at, l1_entries, 1, false);
  co_return true;
}

Task<> Checker::count_extensions() {
  if (header_.crypt_method != 0) count(header_.encryption_header.offset, header_.encryption_header.length);
  if (header_.has_bitmaps && header_.has(Autoclear::bitmaps))
    co_await count_bitmaps(header_.bitmap_directory_at.value, header_.bitmap_directory_bytes, header_.bitmaps);
}

Task<> Checker::count_bitmaps(std::uint64_t directory, std::uint64_t length, std::uint32_t bitmaps) {
  const bool placed = geometry().cluster_aligned(directory) && directory != 0 && length <= directory_bytes_max;
  if (!placed || bitmaps > bitmaps_max || !fits(directory, length, align_up(file_size_, geometry().cluster_size()))) {
    corrupt("ERROR bitmap directory of {} bytes at 0x{x} is invalid", length, directory);
    co_return;
  }
  if (!count(directory, length)) co_return;
  std::vector<std::byte> entries(length);
  co_await read(directory, entries);
  std::uint64_t at = 0;
  for (std::uint32_t i = 0; i < bitmaps; ++i) {
    co_await go_on();
    if (!fits(at, bitmap_entry_bytes, length)) {
      corrupt("ERROR bitmap directory ends before its entry {}", i);
      co_return;
    }
    const std::byte* entry = entries.data() + at;
    const std::uint64_t name = load_be<std::uint16_t>(entry + 18), extra = load_be<std::uint32_t>(entry + 20);
    at += align_up(bitmap_entry_bytes + name + extra, 8);
    co_await count_bitmap_table(load_be<std::uint64_t>(entry), load_be<std::uint32_t>(entry + 8));
  }
}

Task<> Checker::count_bitmap_table(std::uint64_t at, std::uint64_t entries) {
  const Range all{at, entries * entry_bytes};
  if (!geometry().cluster_aligned(at) || at == 0 || entries > bitmap_table_entries_max) {
    corrupt("ERROR bitmap table of {} entries at 0x{x} is invalid", entries, at);
    co_return;
  }
  // A disk of no size has a table of no entries, which takes a cluster all the same.
  if (!count(at, std::max<std::uint64_t>(1, entries) * entry_bytes)) co_return;
  if (!alone(all)) {
    corrupt("ERROR the bitmap table at 0x{x} overlaps another table", at);
    co_return;
  }
  for (Range left = all; !left.empty();) {
    const Range piece = co_await next_written(left);
    const HostOffset from{piece.offset};
    const auto table = co_await read_table(from, piece.length / entry_bytes);
    for (const std::uint64_t raw : table) count_bitmap_entry(raw);
    left = {piece.end(), left.end() - piece.end()};
  }
}

void Checker::count_bitmap_entry(std::uint64_t raw) {
  const Geometry& g = geometry();
  const std::uint64_t data = raw & CheckEntry::offset_mask;
  if ((raw & bitmap_table_reserved) || (data != 0 && (raw & 1)) || !g.cluster_aligned(data))
    corrupt("ERROR bitmap table entry {x} is invalid", raw);
  else if (data != 0) count(data, g.cluster_size());
}

}  // namespace tidemark::qcow2
