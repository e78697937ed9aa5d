// Checkpoints: all bitmaps as they are at one moment become a snapshot that the root names.
//
// The order is what keeps the store's promise (docs/decisions/0004-tracking-store.md, point 4): the letters
// are that document's.
#include "tracking/checksum.hpp"
#include "tracking/coverage.hpp"
#include "tracking/store.hpp"

namespace tidemark::tracking {
namespace {

// A rule that a test breaks: what memory has dropped goes, whoever wants it kept.
Losses all_losses(const NodeBitmaps& bitmaps) {
  Losses losses;
  for (const auto& bitmap : bitmaps.all())
    if (bitmap->kept()) losses.push_back({bitmap.get(), bitmap->kept()->version, false});
  return losses;
}

}  // namespace

Task<> TrackingStore::checkpoint(Depth depth, const GroupStep* step) {
  const auto guard = co_await checkpoints_.lock();
  const Result<> done = co_await checkpoint_locked(depth, step).result();
  free_unused();
  if (!done && failed()) let_pass(done.error());
  if (done && std::exchange(told_failed_, false))
    report(StoreReport::Kind::recovered, "tracking store '" + options_.path + "' has all marks again");
  co_await unwrap(done);
}

Task<> TrackingStore::checkpoint_locked(Depth depth, const GroupStep* step) {
  if (gone_) co_await renew();
  co_await check_asked(step);
  Losses losses;                                                         // (a)
  if (depth == Depth::lasting) {
    losses = released_losses(node_.bitmaps());
    if (closing_ || keeps(Rule::flush_before_loss)) co_await node_.make_durable();
  }
  if (!keeps(Rule::keep_until_released)) losses = all_losses(node_.bitmaps());
  if (step && !step->decides) {
    intended_ = step->group;
    keeper_ = step->keeper;
  }
  const std::uint64_t ended = step && step->decides ? step->group : 0;
  co_await rotate();                                                     // (b)
  const std::uint64_t failures = failures_;                              // (c)
  const SnapshotPlan plan{root_.store_id, node_.size_largest(), losses, catalogue_, keeps(Rule::uncover_losses), ended, intended_};
  Snapshot snapshot(node_.bitmaps(), plan, space_);
  complete(snapshot.catalogue, step);
  close_zones(snapshot.common);
  Superblock root = root_;
  co_await write(snapshot, root);                                        // (d)
  co_await turn(std::move(root), failures);
  catalogue_ = std::move(snapshot.catalogue);                            // (e)
  if (step && step->recorded_as != 0) records_.push_back(step->group);
  cover(snapshot.common);
  forget(node_.bitmaps(), losses);
  node_.bitmaps().group_decided(ended);
}

// A file made anew has another number: who asks for the old one would not find what it says.
Task<> TrackingStore::check_asked(const GroupStep* step) const {
  if (step && step->recorded_as != 0 && step->recorded_as != root_.store_id)
    co_await Error(Errc::io, "tracking store '" + options_.path + "' was made anew meanwhile");
}

// What it says of groups.
void TrackingStore::complete(Catalogue& catalogue, const GroupStep* step) const {
  catalogue.records = records_;
  if (step && step->recorded_as != 0) catalogue.records.push_back(step->group);
  while (catalogue.records.size() > Catalogue::records_max) catalogue.records.erase(catalogue.records.begin());
  if (!catalogue.intent) return;
  catalogue.intent->group = intended_;
  catalogue.intent->keeper = keeper_;
}

// After a clean close: the root names what memory has, and only says that the store is in use.
Task<> TrackingStore::resume() {
  const auto guard = co_await checkpoints_.lock();
  co_await rotate();
  const std::optional<DirtyBitmap> common = common_of(node_.bitmaps());
  close_zones(common);
  Superblock root = root_;
  begin(root);
  co_await turn(std::move(root), failures_);
  cover(common);
}

// The root that is to follow the present one.
void TrackingStore::begin(Superblock& root) const {
  root.generation = root_.generation + 1;
  root.log_epoch = log_.epoch();
  root.lost = root.clean = root.closed = false;
  root.marked = marked_;
  root.digest = 0;
  root.mode = options_.mode;
}

void TrackingStore::cover(const std::optional<DirtyBitmap>& common) {
  if (!common) return covered_.set_all();
  if (common->size() == covered_.size()) return covered_.merge(*common);
  DirtyBitmap now = common->clone();
  now.truncate(covered_.size());
  covered_.merge(now);
}

// (f): the half of the root's epoch stays as it is until another root counts.
Task<> TrackingStore::rotate() {
  const bool other_half_free = anew_ || log_.epoch() == root_.log_epoch;
  if (other_half_free) {
    log_.rotate(++epoch_last_);
    fresh_.clear_all();
  }
  if (keeps(Rule::wait_for_older_logs)) co_await log_.wait_older();
}

void TrackingStore::close_zones(const std::optional<DirtyBitmap>& common) {
  zones_.close_all();
  if (common) set_grain(common->granularity());
  if (anew_) {
    covered_.clear_all();
  } else if (common) {
    if (keeps(Rule::end_zones)) intersect(covered_, *common);
    if (!keeps(Rule::cover_after_turn)) covered_.merge(*common);
  }
  covered_.merge(fresh_);
  passing_ = options_.mode == Mode::off;
}

// The granules of what admits: as small as the smallest bitmap's.  They become larger again only where all
// of the disk is covered, for half a granule would count as one.
void TrackingStore::set_grain(std::uint64_t grain) {
  const bool all = covered_.count() == covered_.granules();
  const std::uint64_t before = covered_.granularity(), size = covered_.size();
  if (grain == before || (grain > before && !all)) return;
  covered_ = with_granularity(covered_, size, grain);
  fresh_ = grain < before ? with_granularity(fresh_, size, grain) : DirtyBitmap(size, grain);
}

Task<> TrackingStore::write(Snapshot& snapshot, Superblock& root) {
  begin(root);
  const std::vector<std::byte> encoded = snapshot.catalogue.encode();
  root.about_groups = snapshot.catalogue.about_groups();
  root.catalogue_bytes = encoded.size();
  root.catalogue_sum = checksum(encoded, root.store_id);
  for (const auto& piece : snapshot.pieces) co_await file_.file().write(piece.position, Buffers::of_const(piece.bytes.bytes()));
  AlignedBuffer catalogue(align_up(encoded.size(), page_bytes));
  Buffers(catalogue.bytes()).fill_zero();
  std::copy(encoded.begin(), encoded.end(), catalogue.data());
  for (auto& at : root.catalogue) {
    at = space_.allocate(catalogue.size()).offset;
    co_await file_.file().write(at, catalogue.bytes());
  }
  if (durable() && keeps(Rule::sync_before_turn)) co_await file_.file().sync();
}

Task<> TrackingStore::turn(Superblock root, std::uint64_t failures) {
  const auto guard = co_await roots_.lock();
  // Since the snapshot's moment writes may have passed that nothing has recorded.
  if (failures != failures_ && keeps(Rule::turn_if_none_passed))
    co_await Error(Errc::io, "tracking store '" + options_.path + "' failed meanwhile");
  root.version = ++version_;
  const Result<> written = co_await file_.write_root(root, durable()).result();
  if (!written) {
    co_await say_lost(written.error());                                  // nobody knows which root counts
    co_await written.error();
  }
  root_ = std::move(root);
  anew_ = false;
}

void TrackingStore::free_unused() {
  space_ = Space(root_.data_start());
  space_.take(root_, catalogue_);
}

}  // namespace tidemark::tracking
