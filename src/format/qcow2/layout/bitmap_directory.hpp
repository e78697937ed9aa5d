// The bitmap directory of the bitmaps extension: what an image says of each bitmap that it holds.
//
// What parse_bitmap_directory() returns is bounded, and well-formed as QEMU wants it: names neither empty nor twice,
// granularities of 512 B to 2 GiB, tables aligned and of the length that the disk needs, unless the bitmap is in use.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/error.hpp"
#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

inline constexpr std::uint32_t bitmaps_max = 65535;
inline constexpr std::uint64_t bitmap_name_max = 1023;
inline constexpr std::uint64_t bitmap_directory_bytes_max = std::uint64_t{bitmaps_max} * 1048;
inline constexpr std::uint64_t bitmap_table_entries_max = std::uint64_t{1} << 27;
inline constexpr std::uint64_t bitmap_bytes_max = 512 * MiB;          // of one, dense

struct BitmapEntry {
  static constexpr std::uint32_t in_use_flag = 1, auto_flag = 2, extra_compatible_flag = 4, known_flags = 7;

  std::string name;
  std::uint32_t granularity_bits = 16;
  std::uint32_t flags = 0;
  HostOffset table_at;
  std::uint32_t table_entries = 0;
  std::vector<std::byte> extra;

  bool in_use() const noexcept { return flags & in_use_flag; }
  bool enabled() const noexcept { return flags & auto_flag; }
  // Its content can be believed and understood.
  bool usable() const noexcept { return !in_use() && (extra.empty() || (flags & extra_compatible_flag)); }
};

// Bytes of the dense form, and entries of the table, that a disk's bitmap takes.
constexpr std::uint64_t bitmap_bytes(std::uint64_t disk_size, std::uint32_t granularity_bits) noexcept {
  return div_up(div_up(disk_size, std::uint64_t{1} << granularity_bits), 8);
}
constexpr std::uint64_t bitmap_table_entries(const Geometry& g, std::uint64_t disk_size, std::uint32_t granularity_bits) noexcept {
  return g.clusters_for(bitmap_bytes(disk_size, granularity_bits));
}

Result<std::vector<BitmapEntry>> parse_bitmap_directory(Bytes directory, std::uint32_t count, const Geometry& g,
                                                        std::uint64_t disk_size);

// One that can be stored.  Errors are QEMU's.
Result<> check_bitmap_entry(const BitmapEntry& entry, std::uint64_t disk_size);

std::vector<std::byte> serialise_bitmap_directory(const std::vector<BitmapEntry>& entries);

}  // namespace tidemark::qcow2
