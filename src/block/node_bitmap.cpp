#include "block/node_bitmap.hpp"

#include <algorithm>

#include "block/checkpoints.hpp"

namespace tidemark {

std::uint64_t NodeBitmap::dirty_bytes() const noexcept {
  // Granules in both are counted twice while a job holds the bitmap, as in QEMU.
  return bits_.dirty_bytes() + (successor_ ? successor_->dirty_bytes() : 0);
}

void NodeBitmap::freeze() {
  TM_ASSERT(!successor_);
  busy_ = true;
  ++remade_;
  if (enabled_) successor_ = std::make_unique<DirtyBitmap>(bits_.size(), bits_.granularity());
}

void NodeBitmap::refreeze() {
  TM_ASSERT(busy_);
  if (successor_) bits_.merge(successor_->take());
}

void NodeBitmap::abdicate() {
  drops_with_ = 0;
  busy_ = false;
  ++remade_;
  if (std::exchange(dropped_, false)) return;
  keep(bits_);
  suspected_.reset();
  if (successor_) bits_ = std::move(*successor_);
  else bits_.clear_all();
  successor_.reset();
}

void NodeBitmap::reclaim() {
  ++remade_;
  if (successor_) bits_.merge(*successor_);
  successor_.reset();
  drops_with_ = 0;
  busy_ = dropped_ = false;
}

DirtyBitmap NodeBitmap::clear() {
  ++remade_;
  keep(bits_);
  suspected_.reset();
  return bits_.take();
}

void NodeBitmap::truncate(std::uint64_t disk_size) {
  bits_.truncate(disk_size);
  if (successor_) successor_->truncate(disk_size);
  if (kept_) kept_->bits.truncate(disk_size);
  if (suspected_) suspected_->truncate(disk_size);
  if (recorder_) recorder_->truncate(disk_size);
}

void NodeBitmap::hold_for_group(std::uint64_t group, bool was_recording) {
  ++group_holds_;
  ++remade_;
  group_ = group;
  if (was_recording && !recorder_) recorder_ = std::make_unique<DirtyBitmap>(bits_.size(), bits_.granularity());
}

void NodeBitmap::end_group() noexcept {
  TM_ASSERT(group_holds_ > 0);
  if (--group_holds_ != 0) return;
  ++remade_;
  recorder_.reset();
  group_ = 0;
  in_group_ = false;
}

void NodeBitmap::group_decided(std::uint64_t group) {
  if (!persistent_ || !concerns(group)) return;
  ++remade_;
  kept_.reset();
  recorder_.reset();
  if (!drops_with(group)) return;
  suspected_.reset();
  if (successor_) bits_ = std::move(*successor_);
  else bits_.clear_all();
  successor_.reset();
  dropped_ = true;
}

void NodeBitmap::come_back(NodeBitmap stored) {
  ++remade_;
  const bool fits = stored.bits_.size() == bits_.size() && stored.granularity() == granularity();
  if (!read_only_ && fits) stored.bits_.merge(bits_);
  bits_ = std::move(stored.bits_);
  suspected_ = std::move(stored.suspected_);
  inconsistent_ = std::move(stored.inconsistent_);
  enabled_ = stored.enabled_;
  follows_ = stored.follows_;
  persistent_ = true;
  read_only_ = false;
}

void NodeBitmap::become(const NodeBitmap& other) {
  TM_ASSERT(!successor_);
  keep(bits_);
  ++remade_;
  DirtyBitmap bits(bits_.size(), bits_.granularity());
  bits.merge(other.bits_);
  if (other.successor_) bits.merge(*other.successor_);
  bits_ = std::move(bits);
  suspected_.reset();
  if (other.suspected_) suspect(*other.suspected_);
  persistent_ = persistent_ || other.persistent_;
  if (other.kept_) keep(other.kept_->bits);
  enabled_ = other.enabled_;
  follows_ = other.follows_;
  carried_ = other.carried_;
  inconsistent_ = other.inconsistent_;
}

void NodeBitmap::keep(const DirtyBitmap& bits) {
  if (!persistent_ || bits.empty()) return;
  ++remade_;
  if (!kept_) kept_ = std::make_unique<Kept>(Kept{DirtyBitmap(bits_.size(), bits_.granularity())});
  kept_->bits.merge(bits);
  kept_->version = ++kept_version_;
  kept_->released = false;
}

void NodeBitmap::keep_all() {
  DirtyBitmap all(bits_.size(), bits_.granularity());
  all.set_all();
  keep(all);
}

void NodeBitmap::release_kept() noexcept {
  if (kept_) kept_->released = true;
}

void NodeBitmap::forget_kept(std::uint64_t version) noexcept {
  if (!kept_ || kept_->version != version) return;
  ++remade_;
  kept_.reset();
}

void NodeBitmap::suspect(const DirtyBitmap& granules) {
  if (granules.empty()) return;
  ++remade_;
  if (!suspected_) suspected_ = std::make_unique<DirtyBitmap>(bits_.size(), bits_.granularity());
  suspected_->merge(granules);
}

void NodeBitmap::merge(const DirtyBitmap& written) {
  bits_.merge(written);
  DirtyAreas areas(written, {0, written.size()});
  for (auto area = areas.next(); area && suspected_; area = areas.next()) trust(*area);
}

void NodeBitmap::trust(Range range) noexcept {
  const Range whole = range.widened(suspected_->granularity());
  suspected_->clear(whole.intersect({0, suspected_->size()}));
  if (!suspected_->empty()) return;
  ++remade_;
  suspected_.reset();
}

void NodeBitmap::acquit(Range range) {
  if (!suspected_) return;
  DirtyBitmap clean(bits_.size(), bits_.granularity());
  DirtyAreas areas(*suspected_, range);
  while (const auto area = areas.next()) {
    const bool last = area->end() == bits_.size();
    const Range whole = Range{area->offset, last ? align_up(area->length, granularity()) : area->length}.narrowed(granularity());
    if (!whole.empty()) clean.set(whole.intersect({0, bits_.size()}));
  }
  keep(clean);
  DirtyAreas cleared(clean, {0, clean.size()});
  while (const auto area = cleared.next()) {
    bits_.clear(*area);
    suspected_->clear(*area);
  }
  if (!suspected_->empty()) return;
  ++remade_;
  suspected_.reset();
}

Result<> check_bitmap(const NodeBitmap& bitmap, BitmapUse use) {
  if (bitmap.busy() || bitmap.in_group())
    return Error(Errc::busy, "Bitmap '" + bitmap.name() +
                                 "' is currently in use by another operation and cannot be used");
  if (use != BitmapUse::read && checkpoint_of(bitmap.name()))
    return Error(Errc::permission, "Bitmap '" + bitmap.name() + "' is a checkpoint's and cannot be modified by itself");
  if (use != BitmapUse::read && bitmap.read_only())
    return Error(Errc::permission, "Bitmap '" + bitmap.name() + "' is readonly and cannot be modified");
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
  if (auto ok = check_unclaimed(name); !ok) return ok.error();
  if (granularity < 512 || !is_power_of_two(granularity))
    return Error(Errc::invalid_argument,
                 "Granularity must be power of 2 and at least 512");
  insert(std::make_shared<NodeBitmap>(std::move(name), disk_size, granularity));
  return all_.back().get();
}

Result<> NodeBitmaps::check_unclaimed(std::string_view name) const {
  for (const auto& bitmap : retired_)
    if (bitmap->name() == name && bitmap->in_group()) return check_bitmap(*bitmap, BitmapUse::read);
  return {};
}

void NodeBitmaps::bring_back(std::shared_ptr<NodeBitmap> bitmap) {
  NodeBitmap* present = find(bitmap->name());
  if (!present) return insert(std::move(bitmap));
  present->come_back(std::move(*bitmap));
  begun();
}

std::shared_ptr<NodeBitmap> NodeBitmaps::remove(NodeBitmap& bitmap) noexcept {
  auto place = std::find_if(all_.begin(), all_.end(), [&](const auto& b) { return b.get() == &bitmap; });
  TM_ASSERT(place != all_.end());
  auto removed = std::move(*place);
  all_.erase(place);
  return removed;
}

namespace {

void move_bitmap(NodeBitmap& bitmap, std::vector<std::shared_ptr<NodeBitmap>>& from,
                 std::vector<std::shared_ptr<NodeBitmap>>* to) noexcept {
  auto place = std::find_if(from.begin(), from.end(), [&](const auto& b) { return b.get() == &bitmap; });
  TM_ASSERT(place != from.end());
  if (to) to->push_back(std::move(*place));
  from.erase(place);
}

}  // namespace

void NodeBitmaps::retire(NodeBitmap& bitmap) noexcept { move_bitmap(bitmap, all_, &retired_); }
void NodeBitmaps::revive(NodeBitmap& bitmap) noexcept { move_bitmap(bitmap, retired_, &all_); }
void NodeBitmaps::bury(NodeBitmap& bitmap) noexcept { move_bitmap(bitmap, retired_, nullptr); }

// What was removed the store does not have any more.
void NodeBitmaps::group_decided(std::uint64_t group) {
  for (auto& bitmap : all_) bitmap->group_decided(group);
  for (auto& bitmap : retired_) {
    bitmap->group_decided(group);
    if (bitmap->held_by(group)) bitmap->set_persistent(false);
  }
}

void NodeBitmaps::truncate(std::uint64_t disk_size) {
  for (auto& bitmap : all_) bitmap->truncate(disk_size);
  for (auto& bitmap : retired_) bitmap->truncate(disk_size);
}

}  // namespace tidemark
