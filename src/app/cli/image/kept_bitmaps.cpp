#include "app/cli/image/kept_bitmaps.hpp"

#include <algorithm>

#include "app/cli/image/leaks.hpp"

namespace tidemark::cli {
Task<KeptBitmaps> KeptBitmaps::load(const Context& context, ImageName image, bool force_share) {
  KeptBitmaps kept(context, std::move(image));
  if (kept.image_.format != "qcow2") co_return std::move(kept);
  std::function<Task<>(Session&)> body = [&](Session& session) { return kept.read(session, force_share); };
  co_await in_session<void>(context.reactor, body, context.interrupted);
  co_return std::move(kept);
}

Task<> KeptBitmaps::read(Session& session, bool force_share) {
  Qcow2OpenOptions reading;
  reading.read_only = true;
  Qcow2Driver* image = co_await session.open_qcow2(image_.name, reading, force_share);
  co_await read_from(*image);
}

Task<> KeptBitmaps::read_from(Qcow2Driver& image) {
  can_hold_ = image.can_have_bitmaps();
  disk_size_ = align_up(image.size(), sector_size);
  std::vector<qcow2::BitmapEntry> entries = co_await image.bitmap_entries();
  for (qcow2::BitmapEntry& entry : entries) {
    Qcow2Bitmap bitmap{entry, std::nullopt};
    if (entry.usable()) {
      DirtyBitmap bits = co_await image.load_bitmap(entry);
      bitmap.bits = std::move(bits);
    }
    bitmaps_.push_back(std::move(bitmap));
  }
}

Task<KeptBitmaps> KeptBitmaps::take(const Context& context, ImageName image, BlockNode& node) {
  KeptBitmaps kept(context, std::move(image));
  auto* const qcow2 = dynamic_cast<Qcow2Driver*>(&node.driver());
  if (!qcow2) co_return std::move(kept);
  co_await kept.read_from(*qcow2);
  if (kept.empty()) co_return std::move(kept);
  co_await qcow2->drop_bitmaps();
  kept.attach(node);
  co_return std::move(kept);
}

Task<> KeptBitmaps::put_back(BlockNode& node) {
  if (bitmaps_.empty()) co_return;
  collect(node);
  std::vector<Qcow2Bitmap> stored;
  for (const Qcow2Bitmap& bitmap : bitmaps_) {
    stored.push_back({bitmap.entry, std::nullopt});
    if (bitmap.bits) stored.back().bits = bitmap.bits->clone();
  }
  co_await static_cast<Qcow2Driver&>(node.driver()).store_bitmaps(std::move(stored));
}

Task<> KeptBitmaps::finish(Result<> put_back) {
  if (bitmaps_.empty()) co_return;
  if (put_back) co_return co_await give_back_leaks(*context_, image_);
  for (Qcow2Bitmap& bitmap : bitmaps_)
    if (bitmap.bits && bitmap.entry.enabled()) bitmap.bits->set_all();
  (void)co_await tidy_after_failure(*context_, image_).result();
  co_await store();
}

// Where they have not counted meanwhile, what those that are not usable took may be somebody else's by now.
void KeptBitmaps::complete(const Qcow2Driver& image) {
  if (image.has_bitmaps()) return;
  for (Qcow2Bitmap& bitmap : bitmaps_)
    if (!bitmap.bits) bitmap.bits.emplace(image.size(), std::uint64_t{1} << bitmap.entry.granularity_bits);
}

// Nobody knows how large the disk has been: what a shrinking cut off, perhaps long ago, has changed once it is there again.
void KeptBitmaps::attach(BlockNode& node) const {
  if (!bitmaps_.empty()) node.remember_size(max_disk_size);
  for (const Qcow2Bitmap& bitmap : bitmaps_) {
    if (!bitmap.bits) continue;
    const auto granularity = static_cast<std::uint32_t>(bitmap.bits->granularity());
    auto recording = std::make_unique<NodeBitmap>(bitmap.entry.name, node.size(), granularity);
    recording->bits().merge(*bitmap.bits);
    recording->set_enabled(bitmap.entry.enabled());
    node.bitmaps().insert(std::move(recording));
  }
}

void KeptBitmaps::collect(BlockNode& node) {
  for (Qcow2Bitmap& bitmap : bitmaps_)
    if (const NodeBitmap* recorded = node.bitmaps().find(bitmap.entry.name)) bitmap.bits = recorded->bits().clone();
}

Result<> KeptBitmaps::check_consistent() const {
  for (const Qcow2Bitmap& bitmap : bitmaps_)
    if (!bitmap.bits)
      return Error(Errc::invalid_argument, "Cannot copy inconsistent bitmap '" + bitmap.entry.name + "'; give --skip-broken-bitmaps");
  return {};
}

Result<> KeptBitmaps::check_room_for(const KeptBitmaps& others, bool skip_broken) const {
  if (auto ok = others.check_consistent(); !ok && !skip_broken) return ok;
  for (const Qcow2Bitmap& other : others.bitmaps_) {
    const std::string& name = other.entry.name;
    if (!other.bits) continue;
    if (!can_hold_) return Error(Errc::unsupported, "Cannot store dirty bitmaps in qcow2 v2 files");
    if (others.disk_size_ != disk_size_)
      return Error(Errc::invalid_argument, "Bitmap '" + name + "' is of a disk of another size");
    if (std::any_of(bitmaps_.begin(), bitmaps_.end(), [&](const Qcow2Bitmap& mine) { return mine.entry.name == name; }))
      return Error(Errc::exists, "Bitmap already exists: " + name);
  }
  return {};
}

Result<> KeptBitmaps::add(KeptBitmaps others, bool skip_broken) {
  if (auto ok = check_room_for(others, skip_broken); !ok) return ok;
  for (Qcow2Bitmap& other : others.bitmaps_)
    if (other.bits) bitmaps_.push_back(std::move(other));
  return {};
}

// What they took before is not part of the image any more: it is given back, too.
Task<> KeptBitmaps::store() {
  if (bitmaps_.empty()) co_return;
  std::function<Task<>(Session&)> write = [&](Session& session) -> Task<> {
    Qcow2OpenOptions options;
    options.keeps_content = true;
    Qcow2Driver* image = co_await session.open_qcow2(image_.name, options);
    complete(*image);
    co_await image->store_bitmaps(std::move(bitmaps_));
  };
  co_await in_session<void>(context_->reactor, write, context_->interrupted);
  co_await give_back_leaks(*context_, image_);
}

}  // namespace tidemark::cli
