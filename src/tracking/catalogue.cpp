#include "tracking/catalogue.hpp"

#include <set>

namespace tidemark::tracking {
namespace {

constexpr std::uint8_t flag_enabled = 1, flag_frozen = 2, flag_follows = 4, flag_carried = 8;

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
  entry.carried = (flags & flag_carried) != 0;
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

void encode_entries(Encoder& to, const std::vector<CatalogueEntry>& entries) {
  to.put(static_cast<std::uint32_t>(entries.size()));
  for (const CatalogueEntry& entry : entries) {
    const auto flags = static_cast<std::uint8_t>((entry.enabled ? flag_enabled : 0) | (entry.frozen ? flag_frozen : 0) |
                                                 (entry.follows ? flag_follows : 0) | (entry.carried ? flag_carried : 0));
    to.text(entry.name).text(entry.point);
    to.put(entry.granularity).put(entry.size).put(entry.size_largest).put(flags).text(entry.inconsistent);
    for (const SegmentTable& table : entry.tables) encode_table(to, table);
  }
}

std::uint64_t stored_bytes(const CatalogueEntry& entry) noexcept {
  std::uint64_t bytes = 0;
  for (const SegmentTable& table : entry.tables)
    for (const Segment& segment : table) bytes += segment.length;
  return bytes;
}

Result<std::vector<CatalogueEntry>> decode_entries(Decoder& from, Range data) {
  const auto count = from.get<std::uint32_t>();
  if (count > Catalogue::bitmaps_max) return Error(Errc::corrupt, "catalogue has too many bitmaps");
  std::vector<CatalogueEntry> entries;
  std::set<std::string> names;
  std::uint64_t stored = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    auto entry = decode_entry(from, data);
    if (!entry) return entry.error();
    if (!names.insert(entry->name).second) return Error(Errc::corrupt, "catalogue has a bitmap twice");
    stored += stored_bytes(*entry);
    if (stored > data.length) return Error(Errc::corrupt, "catalogue has segments that lie in one another");
    entries.push_back(*std::move(entry));
  }
  return entries;
}

Result<> decode_groups(Decoder& from, Range data, Catalogue& catalogue) {
  const auto records = from.get<std::uint16_t>();
  if (records > Catalogue::records_max) return Error(Errc::corrupt, "catalogue has too many groups");
  for (unsigned i = 0; i < records; ++i) catalogue.records.push_back(from.get<std::uint64_t>());
  if (from.get<std::uint8_t>() == 0) return {};
  Intent intent;
  intent.group = from.get<std::uint64_t>();
  intent.keeper.store = from.get<std::uint64_t>();
  intent.keeper.path = from.text();
  auto entries = decode_entries(from, data);
  if (!entries) return entries.error();
  intent.entries = *std::move(entries);
  catalogue.intent = std::move(intent);
  return {};
}

}  // namespace

std::vector<std::byte> Catalogue::encode() const {
  Encoder to;
  encode_entries(to, entries);
  if (!about_groups()) return to.bytes();
  to.put(static_cast<std::uint16_t>(records.size()));
  for (const std::uint64_t group : records) to.put(group);
  to.put(std::uint8_t{intent.has_value()});
  if (!intent) return to.bytes();
  to.put(intent->group).put(intent->keeper.store).text(intent->keeper.path);
  encode_entries(to, intent->entries);
  return to.bytes();
}

Result<Catalogue> Catalogue::decode(Bytes bytes, Range data) {
  Decoder from(bytes);
  Catalogue catalogue;
  auto entries = decode_entries(from, data);
  if (!entries) return entries.error();
  catalogue.entries = *std::move(entries);
  if (from.left() == 0) return catalogue;
  if (auto ok = decode_groups(from, data, catalogue); !ok) return ok.error();
  if (!from.ok() || from.left() != 0) return Error(Errc::corrupt, "catalogue ends at another place than it should");
  return catalogue;
}

}  // namespace tidemark::tracking
