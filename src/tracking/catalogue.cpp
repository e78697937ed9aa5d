#include "tracking/catalogue.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::uint8_t flag_enabled = 1, flag_frozen = 2, flag_follows = 4;
constexpr std::uint32_t bitmaps_max = 65536;

Result<CatalogueEntry> decode_entry(Decoder& from, Range data) {
  CatalogueEntry entry;
  entry.name = from.text();
  entry.point = from.text();
  entry.granularity = from.get<std::uint64_t>();
  entry.size = from.get<std::uint64_t>();
  entry.size_largest = from.get<std::uint64_t>();
  const auto flags = from.get<std::uint8_t>();
  entry.enabled = (flags & flag_enabled) != 0;
  entry.frozen = (flags & flag_frozen) != 0;
  entry.follows = (flags & flag_follows) != 0;
  entry.inconsistent = from.text();
  if (!from.ok() || entry.name.empty() || !DirtyBitmap::valid_granularity(entry.granularity) ||
      entry.size > max_disk_size || entry.size_largest > max_disk_size)
    return Error(Errc::corrupt, "entry of a bitmap makes no sense");
  const std::uint64_t segments = div_up(div_up(entry.size, entry.granularity), segment_granules);
  for (SegmentTable& table : entry.tables) {
    auto decoded = decode_table(from, segments, data);
    if (!decoded) return decoded.error();
    table = *std::move(decoded);
  }
  return entry;
}

}  // namespace

const CatalogueEntry* Catalogue::find(std::string_view name) const noexcept {
  for (const CatalogueEntry& entry : entries)
    if (entry.name == name) return &entry;
  return nullptr;
}

std::vector<std::byte> Catalogue::encode() const {
  Encoder to;
  to.put(static_cast<std::uint32_t>(entries.size()));
  for (const CatalogueEntry& entry : entries) {
    const auto flags = static_cast<std::uint8_t>((entry.enabled ? flag_enabled : 0) | (entry.frozen ? flag_frozen : 0) |
                                                 (entry.follows ? flag_follows : 0));
    to.text(entry.name).text(entry.point);
    to.put(entry.granularity).put(entry.size).put(entry.size_largest).put(flags).text(entry.inconsistent);
    for (const SegmentTable& table : entry.tables) encode_table(to, table);
  }
  return to.bytes();
}

Result<Catalogue> Catalogue::decode(Bytes bytes, Range data) {
  Decoder from(bytes);
  Catalogue catalogue;
  const auto count = from.get<std::uint32_t>();
  if (count > bitmaps_max) return Error(Errc::corrupt, "catalogue has too many bitmaps");
  for (std::uint32_t i = 0; i < count; ++i) {
    auto entry = decode_entry(from, data);
    if (!entry) return entry.error();
    if (catalogue.find(entry->name)) return Error(Errc::corrupt, "catalogue has a bitmap twice");
    catalogue.entries.push_back(*std::move(entry));
  }
  if (from.left() != 0) return Error(Errc::corrupt, "catalogue has bytes after its end");
  return catalogue;
}

}  // namespace tidemark::tracking
