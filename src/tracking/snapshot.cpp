#include "tracking/snapshot.hpp"

#include <algorithm>
#include <set>

#include "tracking/coverage.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t piece_bytes = 64 * KiB;

bool loses(const Losses& losses, const NodeBitmap& bitmap, bool all) {
  return std::any_of(losses.begin(), losses.end(), [&](const Loss& loss) {
    if (loss.bitmap != &bitmap || loss.all != all) return false;
    // Bits that were dropped since are kept, and with them those of before.
    return all || (bitmap.kept() && bitmap.kept()->version == loss.version);
  });
}

// All bitmaps to be stored.  One that is leaving hides the new one of its name.
std::vector<const NodeBitmap*> to_store(const NodeBitmaps& bitmaps, const Losses& losses, std::uint64_t ended) {
  std::vector<const NodeBitmap*> stored;
  std::set<std::string_view> leaving;
  for (const auto& bitmap : bitmaps.retired()) {
    if (!bitmap->persistent() || loses(losses, *bitmap, true) || bitmap->held_by(ended)) continue;
    stored.push_back(bitmap.get());
    leaving.insert(bitmap->name());
  }
  for (const auto& bitmap : bitmaps.all())
    if (bitmap->persistent() && !leaving.contains(bitmap->name())) stored.push_back(bitmap.get());
  return stored;
}

std::uint64_t smallest_granule(const NodeBitmap& bitmap, std::uint64_t grain) {
  return bitmap.records() ? std::min(grain, bitmap.granularity()) : grain;
}

// Bitmaps are often alike: two that are need no more than a look.
void narrow(std::optional<DirtyBitmap>& common, const DirtyBitmap& recorded, std::uint64_t grain) {
  if (!common) common = with_granularity(recorded, recorded.size(), grain);
  else if (recorded != *common) intersect(*common, recorded);
}

}  // namespace

std::optional<DirtyBitmap> common_of(const NodeBitmaps& bitmaps) {
  std::uint64_t grain = DirtyBitmap::granularity_max;
  for (const auto& bitmap : bitmaps.all()) grain = smallest_granule(*bitmap, grain);
  std::optional<DirtyBitmap> common;
  for (const auto& bitmap : bitmaps.all())
    if (bitmap->recording()) narrow(common, bitmap->bits(), grain);
  return common;
}

Losses released_losses(const NodeBitmaps& bitmaps) {
  Losses losses;
  for (const auto& bitmap : bitmaps.retired())
    if (bitmap->leaving()) losses.push_back({bitmap.get(), 0, true});
  for (const auto& bitmap : bitmaps.all())
    if (const auto* kept = bitmap->kept(); kept && kept->released) losses.push_back({bitmap.get(), kept->version, false});
  return losses;
}

void forget(NodeBitmaps& bitmaps, const Losses& losses) noexcept {
  for (const Loss& loss : losses) {
    if (loss.all) bitmaps.bury(*loss.bitmap);
    else loss.bitmap->forget_kept(loss.version);
  }
}

Snapshot::Snapshot(const NodeBitmaps& bitmaps, const SnapshotPlan& plan, Space& space) : space_(space) {
  for (const CatalogueEntry& entry : plan.before.entries) before_.emplace(entry.name, &entry);
  const auto stored = to_store(bitmaps, plan.losses, plan.ended);
  auto intended = to_store(bitmaps, plan.losses, plan.intended);
  if (plan.intended == 0) intended.clear();
  for (const NodeBitmap* bitmap : stored) grain_ = smallest_granule(*bitmap, grain_);
  for (const NodeBitmap* bitmap : intended) grain_ = smallest_granule(*bitmap, grain_);
  for (const NodeBitmap* bitmap : stored) catalogue.entries.push_back(entry_of(*bitmap, plan, plan.ended));
  if (plan.intended != 0) catalogue.intent.emplace();
  for (const NodeBitmap* bitmap : intended) catalogue.intent->entries.push_back(entry_of(*bitmap, plan, plan.intended));
  if (room_ != 0) {
    Piece& last = pieces.back();
    const std::size_t taken = align_up(used_, page_bytes);
    if (taken < room_) space_.give_back({last.position + taken, room_ - taken});
    AlignedBuffer shorter(taken);
    std::copy_n(last.bytes.data(), taken, shorter.data());
    last.bytes = std::move(shorter);
  }
}

CatalogueEntry Snapshot::entry_of(const NodeBitmap& bitmap, const SnapshotPlan& plan, std::uint64_t ended) {
  CatalogueEntry entry;
  entry.name = bitmap.name();
  entry.granularity = bitmap.granularity();
  entry.size = bitmap.bits().size();
  entry.size_largest = std::max(plan.size_largest, entry.size);
  entry.enabled = bitmap.enabled() || bitmap.recorder();
  entry.frozen = bitmap.busy();
  entry.follows = bitmap.follows();
  entry.carried = bitmap.carried();
  entry.inconsistent = bitmap.inconsistent_reason();
  if (bitmap.concerns(ended)) describe_ended(entry, bitmap, bitmap.drops_with(ended), plan);
  else describe(entry, bitmap, plan);
  return entry;
}

void Snapshot::store(CatalogueEntry& entry, CatalogueEntry::Part part, const DirtyBitmap& bits, const SnapshotPlan& plan) {
  const auto named = before_.find(entry.name);
  const CatalogueEntry* old = named == before_.end() ? nullptr : named->second;
  if (old && (old->granularity != entry.granularity || old->size != entry.size)) old = nullptr;
  const auto keep_place = [this](Bytes segment) { return place(segment); };
  const SegmentTable none;
  entry.tables[part] = store_segments(bits, old ? old->tables[part] : none, plan.store_id, keep_place);
}

void Snapshot::describe(CatalogueEntry& entry, const NodeBitmap& bitmap, const SnapshotPlan& plan) {
  if (bitmap.inconsistent()) return;
  const bool forgets = loses(plan.losses, bitmap, false);
  const bool alone = !bitmap.kept() && !bitmap.successor() && !bitmap.recorder();
  if (alone) {
    store(entry, CatalogueEntry::bits, bitmap.bits(), plan);
    if (bitmap.recording()) narrow(common, bitmap.bits(), grain_);
  } else {
    DirtyBitmap bits = bitmap.bits().clone();
    if (bitmap.recorder()) bits.merge(*bitmap.recorder());
    if (bitmap.kept() && !forgets) bits.merge(bitmap.kept()->bits);
    store(entry, CatalogueEntry::bits, bits, plan);
    if (bitmap.successor()) store(entry, CatalogueEntry::successor, *bitmap.successor(), plan);
    if (bitmap.successor()) bits.merge(*bitmap.successor());
    if (forgets && !plan.uncover_losses) bits.merge(bitmap.kept()->bits);
    if (bitmap.records()) narrow(common, bits, grain_);
  }
  if (bitmap.suspected()) store(entry, CatalogueEntry::suspected, *bitmap.suspected(), plan);
}

// Of a group that has ended well: nothing is kept for an undo, and what a job has frozen is gone if it `drops` that.
void Snapshot::describe_ended(CatalogueEntry& entry, const NodeBitmap& bitmap, bool drops, const SnapshotPlan& plan) {
  entry.enabled = bitmap.enabled();
  if (bitmap.inconsistent()) return;
  DirtyBitmap bits(bitmap.bits().size(), bitmap.granularity());
  if (!drops) bits.merge(bitmap.bits());
  if (bitmap.successor()) bits.merge(*bitmap.successor());
  store(entry, CatalogueEntry::bits, bits, plan);
  if (!drops && bitmap.suspected()) store(entry, CatalogueEntry::suspected, *bitmap.suspected(), plan);
  if (bitmap.enabled()) narrow(common, bits, grain_);
}

// Segments of one checkpoint lie close together, several to a page where they are small.
std::uint64_t Snapshot::place(Bytes segment) {
  if (room_ - used_ < segment.size()) {
    const Range pages = space_.allocate(piece_bytes);
    pieces.push_back({pages.offset, AlignedBuffer(pages.length)});
    Buffers(pieces.back().bytes.bytes()).fill_zero();
    room_ = pages.length;
    used_ = 0;
  }
  Piece& piece = pieces.back();
  std::copy(segment.begin(), segment.end(), piece.bytes.data() + used_);
  return piece.position + std::exchange(used_, used_ + segment.size());
}

}  // namespace tidemark::tracking
