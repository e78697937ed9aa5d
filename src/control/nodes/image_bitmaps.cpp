#include "control/nodes/image_bitmaps.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "base/bytes.hpp"
#include "block/checkpoints.hpp"
#include "tracking/catalogue.hpp"
#include "tracking/checksum.hpp"

namespace tidemark {
namespace {

using qcow2::BitmapEntry;
using tracking::checksum;

constexpr const char* unusable = "the image was not closed while it was in use, or it is damaged there";

// Only what is dirty costs anything.
std::uint64_t digest_of(const DirtyBitmap& bits, std::uint64_t seed) {
  constexpr std::uint64_t chunk_bytes = 4096, chunk_granules = chunk_bytes * 8;
  std::vector<std::byte> chunk(chunk_bytes);
  for (std::uint64_t first = 0; first < bits.granules(); first += chunk_granules) {
    const std::uint64_t granules = std::min(chunk_granules, bits.granules() - first);
    if (bits.chunk_fill(first, granules) == DirtyBitmap::Fill::clean) continue;
    bits.store_chunk(first, chunk);
    seed = checksum(chunk, seed + first);
  }
  return seed;
}

// Never 0, which says that there is none.
std::uint64_t digest_of(const std::vector<Qcow2Bitmap>& bitmaps) {
  std::uint64_t sum = bitmaps.size();
  for (const Qcow2Bitmap& bitmap : bitmaps) {
    const BitmapEntry& entry = bitmap.entry;
    std::byte shape[16];
    store_le(shape, std::uint64_t{entry.flags});
    store_le(shape + 8, std::uint64_t{entry.granularity_bits});
    sum = checksum(as_bytes(entry.name), checksum(shape, sum));
    if (bitmap.bits && !entry.in_use()) sum = digest_of(*bitmap.bits, sum);
  }
  return std::max<std::uint64_t>(1, sum);
}

std::unique_ptr<NodeBitmap> to_node_bitmap(Qcow2Bitmap held, std::uint64_t disk_size) {
  const BitmapEntry& entry = held.entry;
  const std::uint32_t granularity = std::uint32_t{1} << entry.granularity_bits;
  auto bitmap = std::make_unique<NodeBitmap>(entry.name, disk_size, granularity);
  bitmap->set_persistent(true);
  bitmap->set_enabled(entry.enabled());
  bitmap->set_follows(checkpoint_of(entry.name).has_value());
  if (held.bits) bitmap->bits() = std::move(*held.bits);
  else bitmap->set_inconsistent(unusable);
  return bitmap;
}

const BitmapEntry* find(const std::vector<BitmapEntry>& there, const std::string& name) {
  const auto found = std::find_if(there.begin(), there.end(), [&](const BitmapEntry& entry) { return entry.name == name; });
  return found == there.end() ? nullptr : &*found;
}

// What others keep with a bitmap, and allow to be kept without knowing it, stays.
Qcow2Bitmap to_image_bitmap(const NodeBitmap& bitmap, const std::vector<BitmapEntry>& there) {
  Qcow2Bitmap held;
  if (const BitmapEntry* before = find(there, bitmap.name())) {
    held.entry.extra = before->extra;
    held.entry.flags = before->flags & BitmapEntry::extra_compatible_flag;
  }
  held.entry.name = bitmap.name();
  held.entry.granularity_bits = log2_of(bitmap.granularity());
  if (bitmap.enabled() || bitmap.recorder()) held.entry.flags |= BitmapEntry::auto_flag;
  held.bits = bitmap.bits().clone();
  if (bitmap.successor()) held.bits->merge(*bitmap.successor());
  if (bitmap.recorder()) held.bits->merge(*bitmap.recorder());
  if (bitmap.kept()) held.bits->merge(bitmap.kept()->bits);
  return held;
}

// One that nobody can believe stays as it is in the image; with nothing where the image does not have it.
Qcow2Bitmap to_unusable(const NodeBitmap& bitmap, const std::vector<BitmapEntry>& there) {
  if (const BitmapEntry* before = find(there, bitmap.name()); before && before->in_use()) return {*before, std::nullopt};
  Qcow2Bitmap held;
  held.entry.name = bitmap.name();
  held.entry.granularity_bits = log2_of(bitmap.granularity());
  held.entry.flags = BitmapEntry::in_use_flag;
  held.bits.emplace(bitmap.bits().size(), bitmap.granularity());
  return held;
}

BitmapEntry entry_of(const std::string& name, std::uint64_t granularity) {
  BitmapEntry entry;
  entry.name = name;
  entry.granularity_bits = log2_of(granularity);
  return entry;
}

}  // namespace

Qcow2Driver* image_with_bitmaps(BlockNode& node) noexcept {
  if (node.driver().name() != "qcow2") return nullptr;
  auto& image = static_cast<Qcow2Driver&>(node.driver());
  return image.can_have_bitmaps() ? &image : nullptr;
}

Task<tracking::ImageRecord> read_image_bitmaps(Qcow2Driver& image) {
  tracking::ImageRecord record;
  record.can_mark = true;
  record.marked = image.tracked();
  record.marked_by = image.tracked_by();
  record.dead = image.has_dead_bitmaps();
  const std::vector<BitmapEntry> entries = co_await image.bitmap_entries();
  std::vector<Qcow2Bitmap> held;
  for (const BitmapEntry& entry : entries) {
    Qcow2Bitmap bitmap{entry, std::nullopt};
    if (entry.usable()) {
      Result<DirtyBitmap> bits = co_await image.load_bitmap(entry).result();
      const bool damaged = !bits && (bits.error().code() == Errc::corrupt || bits.error().code() == Errc::invalid_argument);
      if (!bits && !damaged) co_await bits.error();
      if (bits) bitmap.bits = *std::move(bits);
    }
    held.push_back(std::move(bitmap));
  }
  record.digest = digest_of(held);
  for (Qcow2Bitmap& bitmap : held) record.bitmaps.push_back(to_node_bitmap(std::move(bitmap), image.size()));
  co_return std::move(record);
}

Task<std::uint64_t> store_image_bitmaps(BlockNode& node, Qcow2Driver& image) {
  const std::vector<BitmapEntry> there = co_await image.bitmap_entries();
  std::vector<Qcow2Bitmap> held;
  for (const auto& bitmap : node.bitmaps().all()) {
    if (!bitmap->persistent()) continue;
    held.push_back(bitmap->inconsistent() ? to_unusable(*bitmap, there) : to_image_bitmap(*bitmap, there));
  }
  const std::uint64_t digest = digest_of(held);
  if (!held.empty() || image.has_bitmaps() || image.has_dead_bitmaps()) co_await image.store_bitmaps(std::move(held));
  co_return digest;
}

Result<> check_storable(BlockNode& node, const std::string& name, std::uint64_t granularity) {
  const Qcow2Driver* image = image_with_bitmaps(node);
  const auto refuse = [&](std::string_view why) {
    return Error(Errc::invalid_argument, fmt::format("Can't make bitmap '{}' persistent in '{}': {}", name, node.name(), why));
  };
  const auto is_held = [](const auto& bitmap) { return bitmap->persistent(); };
  const auto held = static_cast<std::uint64_t>(std::ranges::count_if(node.bitmaps().all(), is_held));
  const auto leaving = static_cast<std::uint64_t>(std::ranges::count_if(node.bitmaps().retired(), is_held));
  const bool full = held + leaving >= tracking::Catalogue::bitmaps_max || (image && held >= qcow2::bitmaps_max);
  if (full) return refuse("Maximum number of persistent bitmaps is already reached");
  if (!image || !is_power_of_two(granularity)) return {};
  if (auto ok = qcow2::check_bitmap_entry(entry_of(name, granularity), node.size()); !ok) return refuse(ok.error().message());
  return {};
}

Result<> check_storable_at(BlockNode& node, std::uint64_t size) {
  if (!image_with_bitmaps(node)) return {};
  for (const auto& bitmap : node.bitmaps().all()) {
    if (!bitmap->persistent()) continue;
    if (auto ok = qcow2::check_bitmap_entry(entry_of(bitmap->name(), bitmap->granularity()), size); !ok)
      return Error(Errc::invalid_argument, fmt::format("Bitmap '{}' cannot be kept in '{}' with that size: {}; remove it first",
                                                       bitmap->name(), node.name(), ok.error().message()));
  }
  return {};
}

}  // namespace tidemark
