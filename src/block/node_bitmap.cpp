#include "block/node_bitmap.hpp"

#include <algorithm>

namespace tidemark {

std::uint64_t NodeBitmap::dirty_bytes() const noexcept {
  // Granules in both are counted twice while a job holds the bitmap, as in QEMU.
  return bits_.dirty_bytes() + (successor_ ? successor_->dirty_bytes() : 0);
}

void NodeBitmap::freeze() {
  TM_ASSERT(!successor_);
  busy_ = true;
  if (enabled_) successor_ = std::make_unique<DirtyBitmap>(bits_.size(), bits_.granularity());
}

void NodeBitmap::abdicate() {
  if (successor_) bits_ = std::move(*successor_);
  else bits_.clear_all();
  successor_.reset();
  busy_ = false;
}

void NodeBitmap::reclaim() {
  if (successor_) bits_.merge(*successor_);
  successor_.reset();
  busy_ = false;
}

void NodeBitmap::truncate(std::uint64_t disk_size) {
  bits_.truncate(disk_size);
  if (successor_) successor_->truncate(disk_size);
}

Result<> check_bitmap(const NodeBitmap& bitmap, BitmapUse use) {
  if (bitmap.busy())
    return Error(Errc::busy, "Bitmap '" + bitmap.name() +
                                 "' is currently in use by another operation and cannot be used");
  if (use != BitmapUse::allow_inconsistent && bitmap.inconsistent())
    return Error(Errc::corrupt, "Bitmap '" + bitmap.name() + "' is inconsistent and cannot be used");
  return {};
}

NodeBitmap* NodeBitmaps::find(std::string_view name) noexcept {
  for (auto& bitmap : all_)
    if (bitmap->name() == name) return bitmap.get();
  return nullptr;
}

Result<NodeBitmap*> NodeBitmaps::add(std::string name, std::uint64_t disk_size, std::uint32_t granularity) {
  constexpr std::size_t name_max = 1023;
  if (name.empty()) return Error(Errc::invalid_argument, "Bitmap name cannot be empty");
  if (name.size() > name_max) return Error(Errc::invalid_argument, "Bitmap name too long: " + name);
  if (find(name)) return Error(Errc::exists, "Bitmap already exists: " + name);
  if (granularity < 512 || !is_power_of_two(granularity))
    return Error(Errc::invalid_argument,
                 granularity < 512 ? "Granularity must be at least 512" : "Granularity must be power of 2");
  insert(std::make_unique<NodeBitmap>(std::move(name), disk_size, granularity));
  return all_.back().get();
}

std::unique_ptr<NodeBitmap> NodeBitmaps::remove(NodeBitmap& bitmap) noexcept {
  auto place = std::find_if(all_.begin(), all_.end(), [&](const auto& b) { return b.get() == &bitmap; });
  TM_ASSERT(place != all_.end());
  auto removed = std::move(*place);
  all_.erase(place);
  return removed;
}

void NodeBitmaps::truncate(std::uint64_t disk_size) {
  for (auto& bitmap : all_) bitmap->truncate(disk_size);
}

}  // namespace tidemark
