#include "format/qcow2/layout/bitmap_directory.hpp"

#include <algorithm>
#include <set>

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t entry_bytes_min = 24;
constexpr std::uint8_t dirty_tracking = 1;
constexpr std::uint32_t granularity_bits_min = 9, granularity_bits_max = 31;

Error bad(const std::string& why) { return Error(Errc::corrupt, "qcow2: the bitmap directory is damaged: " + why); }

Result<> check_table(const BitmapEntry& entry, const Geometry& g, std::uint64_t disk_size) {
  if (!g.cluster_aligned(entry.table_at.value) || entry.table_at.value == 0 || entry.table_at.value >= offset_limit ||
      entry.table_entries > bitmap_table_entries_max)
    return bad("the table of bitmap '" + entry.name + "' cannot be where it says");
  // While it is in use the disk may have been resized.
  if (!entry.in_use() && entry.table_entries != bitmap_table_entries(g, disk_size, entry.granularity_bits))
    return bad("bitmap '" + entry.name + "' is not of the disk's size");
  return {};
}

}  // namespace

Result<std::vector<BitmapEntry>> parse_bitmap_directory(Bytes directory, std::uint32_t count, const Geometry& g,
                                                        std::uint64_t disk_size) {
  std::vector<BitmapEntry> entries;
  std::set<std::string, std::less<>> names;
  if (count > bitmaps_max) return bad("it has too many bitmaps");
  for (std::uint64_t at = 0; at < directory.size();) {
    if (directory.size() - at < entry_bytes_min) return bad("an entry is cut off");
    const std::byte* raw = directory.data() + at;
    BitmapEntry entry;
    entry.table_at = {load_be<std::uint64_t>(raw)};
    entry.table_entries = load_be<std::uint32_t>(raw + 8);
    entry.flags = load_be<std::uint32_t>(raw + 12);
    const auto type = static_cast<std::uint8_t>(raw[16]);
    entry.granularity_bits = static_cast<std::uint8_t>(raw[17]);
    const std::uint64_t name = load_be<std::uint16_t>(raw + 18), extra = load_be<std::uint32_t>(raw + 20);
    const std::uint64_t length = entry_bytes_min + name + extra;
    if (length > directory.size() - at) return bad("an entry is cut off");
    entry.extra.assign(raw + entry_bytes_min, raw + entry_bytes_min + extra);
    entry.name = as_text(directory.subspan(at + entry_bytes_min + extra, name));
    if (name == 0 || name > bitmap_name_max || entry.name.find('\0') != std::string::npos) return bad("a name is impossible");
    if ((entry.flags & ~BitmapEntry::known_flags) || type != dirty_tracking || entry.granularity_bits < granularity_bits_min ||
        entry.granularity_bits > granularity_bits_max)
      return bad("bitmap '" + entry.name + "' has properties that nobody knows");
    if (auto ok = check_table(entry, g, disk_size); !ok) return ok.error();
    if (!names.insert(entry.name).second) return bad("there are two bitmaps '" + entry.name + "'");
    entries.push_back(std::move(entry));
    at += align_up(length, 8);
  }
  if (entries.size() != count) return bad("it has " + std::to_string(entries.size()) + " entries and not " + std::to_string(count));
  return entries;
}

Result<> check_bitmap_entry(const BitmapEntry& entry, std::uint64_t disk_size) {
  if (entry.name.empty()) return Error(Errc::invalid_argument, "Bitmap name cannot be empty");
  if (entry.name.size() > bitmap_name_max) return Error(Errc::invalid_argument, "Bitmap name too long: " + entry.name);
  if (entry.granularity_bits < granularity_bits_min)
    return Error(Errc::invalid_argument, "Granularity is too small: at least 512 bytes");
  if (entry.granularity_bits > granularity_bits_max)
    return Error(Errc::invalid_argument, "Granularity is too large: at most 2 GiB");
  if (disk_size == 0) return Error(Errc::invalid_argument, "A disk without content cannot have bitmaps");
  if (bitmap_bytes(disk_size, entry.granularity_bits) > bitmap_bytes_max)
    return Error(Errc::invalid_argument, "Too much space will be occupied by the bitmap. Use larger granularity");
  return {};
}

std::vector<std::byte> serialise_bitmap_directory(const std::vector<BitmapEntry>& entries) {
  std::vector<std::byte> directory;
  for (const BitmapEntry& entry : entries) {
    std::byte fixed[entry_bytes_min];
    store_be(fixed, entry.table_at.value);
    store_be(fixed + 8, entry.table_entries);
    store_be(fixed + 12, entry.flags);
    fixed[16] = std::byte{dirty_tracking};
    fixed[17] = static_cast<std::byte>(entry.granularity_bits);
    store_be(fixed + 18, static_cast<std::uint16_t>(entry.name.size()));
    store_be(fixed + 20, static_cast<std::uint32_t>(entry.extra.size()));
    directory.insert(directory.end(), fixed, fixed + entry_bytes_min);
    directory.insert(directory.end(), entry.extra.begin(), entry.extra.end());
    directory.insert(directory.end(), as_bytes(entry.name).begin(), as_bytes(entry.name).end());
    directory.resize(align_up(directory.size(), 8));
  }
  return directory;
}

}  // namespace tidemark::qcow2
