#include "tracking/snapshot.hpp"

#include <algorithm>
#include <set>

#include "tracking/coverage.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::size_t piece_bytes = 64 * KiB;
constexpr unsigned segments_per_turn = 64;

bool loses(const Losses& losses, const NodeBitmap& bitmap, bool all) {
  return std::any_of(losses.begin(), losses.end(), [&](const Loss& loss) {
    if (loss.bitmap.get() != &bitmap || loss.all != all) return false;
    // Bits that were dropped since are kept, and with them those of before.
    return all || (bitmap.kept() && bitmap.kept()->version == loss.version);
  });
}

// All bitmaps to be stored.  Of several of one name, of which all but one are leaving, that is the one that has left first: an undo
// brings it back.
std::vector<const NodeBitmap*> to_store(const NodeBitmaps& bitmaps, const Losses& losses, std::uint64_t ended) {
  std::vector<const NodeBitmap*> stored;
  std::set<std::string_view> leaving;
  for (const auto& bitmap : bitmaps.retired()) {
    if (!bitmap->persistent() || loses(losses, *bitmap, true) || bitmap->held_by(ended)) continue;
    if (leaving.insert(bitmap->name()).second) stored.push_back(bitmap.get());
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
    if (bitmap->leaving()) losses.push_back({bitmap, 0, true});
  for (const auto& bitmap : bitmaps.all())
    if (const auto* kept = bitmap->kept(); kept && kept->released) losses.push_back({bitmap, kept->version, false});
  return losses;
}

void forget(NodeBitmaps& bitmaps, const Losses& losses) noexcept {
  for (const Loss& loss : losses) {
    const auto& retired = bitmaps.retired();
    const bool there = std::find(retired.begin(), retired.end(), loss.bitmap) != retired.end();       // else another has done it
    if (!loss.all) loss.bitmap->forget_kept(loss.version);
    else if (there) bitmaps.bury(*loss.bitmap);
  }
}

Snapshot::Snapshot(const NodeBitmaps& bitmaps, const SnapshotPlan& plan, Space& space) : space_(space), store_id_(plan.store_id) {
  for (const CatalogueEntry& entry : plan.before.entries) before_.emplace(entry.name, &entry);
  const auto stored = to_store(bitmaps, plan.losses, plan.ended);
  auto intended = to_store(bitmaps, plan.losses, plan.intended);
  if (plan.intended == 0) intended.clear();
  for (const NodeBitmap* bitmap : stored) grain_ = smallest_granule(*bitmap, grain_);
  for (const NodeBitmap* bitmap : intended) grain_ = smallest_granule(*bitmap, grain_);
  catalogue.entries.reserve(stored.size());                 // what is pending knows its entry
  for (const NodeBitmap* bitmap : stored) add(catalogue.entries, *bitmap, plan, plan.ended);
  if (plan.intended == 0) return;
  catalogue.intent.emplace();
  catalogue.intent->entries.reserve(intended.size());
  for (const NodeBitmap* bitmap : intended) add(catalogue.intent->entries, *bitmap, plan, plan.intended);
}

Task<> Snapshot::encode(Reactor& reactor) {
  const SegmentTable none;
  unsigned segments = 0;
  for (; !pending_.empty(); pending_.pop_front()) {
    Pending& pending = pending_.front();
    const CatalogueEntry* old = before(pending.entry);
    const auto keep_place = [this](Bytes segment) { return place(segment); };
    SegmentWriter writer(pending.bits, old ? old->tables[pending.part] : none, store_id_, keep_place);
    while (writer.step())
      if (++segments % segments_per_turn == 0) co_await reactor.yield();
    pending.entry.tables[pending.part] = std::move(writer.table);
  }
  end_piece();
}

void Snapshot::end_piece() {
  if (room_ == 0) return;
  Piece& last = pieces.back();
  const std::size_t taken = align_up(used_, page_bytes);
  if (taken < room_) space_.give_back({last.position + taken, room_ - taken});
  AlignedBuffer shorter(taken);
  std::copy_n(last.bytes.data(), taken, shorter.data());
  last.bytes = std::move(shorter);
}

void Snapshot::add(std::vector<CatalogueEntry>& entries, const NodeBitmap& bitmap, const SnapshotPlan& plan, std::uint64_t ended) {
  CatalogueEntry& entry = entries.emplace_back();
  entry.name = bitmap.name();
  entry.granularity = bitmap.granularity();
  entry.size = bitmap.bits().size();
  entry.size_largest = std::max(plan.size_largest, entry.size);
  entry.enabled = bitmap.enabled() || bitmap.recorder();
  entry.frozen = bitmap.busy();
  entry.follows = bitmap.follows();
  entry.carried = bitmap.carried();
  entry.inconsistent = bitmap.inconsistent_reason();
  if (bitmap.concerns(ended)) describe_ended(entry, bitmap, bitmap.drops_with(ended));
  else describe(entry, bitmap, plan);
}

// As it is in the store already; its granules are then the same, too.
const CatalogueEntry* Snapshot::before(const CatalogueEntry& entry) const {
  const auto named = before_.find(entry.name);
  if (named == before_.end()) return nullptr;
  const CatalogueEntry& old = *named->second;
  return old.granularity == entry.granularity && old.size == entry.size ? &old : nullptr;
}

// Then the table that the store has is taken as it is.
bool Snapshot::is_unchanged(CatalogueEntry& entry, CatalogueEntry::Part part) {
  const CatalogueEntry* old = before(entry);
  const auto made_of = entry.made_of.lock();
  if (!old || !made_of || old->made_of.lock() != made_of || old->made_at[part] != entry.made_at[part]) return false;
  entry.tables[part] = old->tables[part];
  return true;
}

void Snapshot::store(CatalogueEntry& entry, CatalogueEntry::Part part, DirtyBitmap bits) {
  pending_.push_back({entry, part, std::move(bits)});
}

void Snapshot::describe(CatalogueEntry& entry, const NodeBitmap& bitmap, const SnapshotPlan& plan) {
  if (bitmap.inconsistent()) return;
  const bool forgets = loses(plan.losses, bitmap, false);
  if (!forgets) entry.made_of = bitmap.weak_from_this();
  entry.made_at[CatalogueEntry::bits] = bitmap.stamp();
  entry.made_at[CatalogueEntry::successor] = bitmap.successor_stamp();
  entry.made_at[CatalogueEntry::suspected] = bitmap.suspected_stamp();
  const bool has_bits = is_unchanged(entry, CatalogueEntry::bits);
  const bool alone = !bitmap.kept() && !bitmap.successor() && !bitmap.recorder();
  if (alone) {
    if (!has_bits) store(entry, CatalogueEntry::bits, bitmap.bits().clone());
    if (bitmap.recording()) narrow(common, bitmap.bits(), grain_);
  } else if (!has_bits || bitmap.records()) {
    DirtyBitmap bits = bitmap.bits().clone();
    if (bitmap.recorder()) bits.merge(*bitmap.recorder());
    if (bitmap.kept() && !forgets) bits.merge(bitmap.kept()->bits);
    if (!has_bits) store(entry, CatalogueEntry::bits, bits.clone());
    if (bitmap.successor()) bits.merge(*bitmap.successor());
    if (forgets && !plan.uncover_losses) bits.merge(bitmap.kept()->bits);
    if (bitmap.records()) narrow(common, bits, grain_);
  }
  if (bitmap.successor() && !is_unchanged(entry, CatalogueEntry::successor))
    store(entry, CatalogueEntry::successor, bitmap.successor()->clone());
  if (bitmap.suspected() && !is_unchanged(entry, CatalogueEntry::suspected))
    store(entry, CatalogueEntry::suspected, bitmap.suspected()->clone());
}

// Of a group that has ended well: nothing is kept for an undo, and what a job has frozen is gone if it `drops` that.
void Snapshot::describe_ended(CatalogueEntry& entry, const NodeBitmap& bitmap, bool drops) {
  entry.enabled = bitmap.enabled();
  if (bitmap.inconsistent()) return;
  DirtyBitmap bits(bitmap.bits().size(), bitmap.granularity());
  if (!drops) bits.merge(bitmap.bits());
  if (bitmap.successor()) bits.merge(*bitmap.successor());
  if (bitmap.enabled()) narrow(common, bits, grain_);
  store(entry, CatalogueEntry::bits, std::move(bits));
  if (!drops && bitmap.suspected()) store(entry, CatalogueEntry::suspected, bitmap.suspected()->clone());
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
