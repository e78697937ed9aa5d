// Counts go down.
#include <algorithm>

#include "format/qcow2/tables/refcounts.hpp"

namespace tidemark::qcow2 {

Task<> Refcounts::apply_frees(std::function<bool()> enough) {
  if (frees_.none_durable()) co_return;
  do {
    const auto turn = co_await freeing_.lock();          // for each, so that who needs one waits for no more than one
    auto freed = frees_.next(geometry_.block_slice_entries());
    if (!freed) co_return;
    const Result<> lowered = co_await lower(*freed).result();
    if (lowered) continue;
    if (!file_.corruption()) frees_.put_back(*freed);    // what is left of it, another time
    co_await lowered.error();
  } while (!enough || !enough());
}

Task<> Refcounts::forget_frees() {
  const auto turn = co_await freeing_.lock();
  frees_.forget_all();
}

// Advances over what is done.
Task<> Refcounts::lower(FreeList::Freed& freed) {
  HostRun& run = freed.run;
  file_.tell(DebugEvent::cluster_free);
  while (run.count != 0) {
    const Place place = place_of(run.first);
    const TableCache::Pin slice = co_await slice_of(place);
    const std::uint64_t here = std::min(run.count, place.left);
    const HostRun part{run.first, here};
    if (file_.is_metadata(geometry_.bytes_of(part)))
      co_await file_.corrupt("metadata was mapped at or behind cluster " + std::to_string(run.first.index));
    if (has(pass_discards_, freed.cause)) co_await discard_last_uses(*slice, place.entry, part);
    for (std::uint64_t i = 0; i < here; ++i) {
      const HostCluster cluster{run.first.index + i};
      const std::uint64_t count = get(*slice, place.entry + i);
      if (count == 0)
        co_await file_.corrupt("cluster " + std::to_string(cluster.index) + " was in use with refcount 0");
      put(*slice, place.entry + i, count - 1);
      if (count != 1) continue;
      next_ = std::min(next_, cluster);
      if (geometry_.cluster_of(packed_end_) == cluster) packed_end_ = {};
    }
    run = {{run.first.index + here}, run.count - here};
  }
}

// Clusters whose count is about to become zero are given back to the storage: nobody uses them, and
// nobody gets them before they are counted zero.  Advisory.
Task<> Refcounts::discard_last_uses(const TableCache::Slice& slice, std::uint64_t entry, HostRun run) {
  const Geometry& g = geometry_;
  for (std::uint64_t i = 0; i < run.count;) {
    HostRun last{{run.first.index + i}, 0};
    while (i < run.count && get(slice, entry + i) == 1) {
      if (g.cluster_of(packed_end_).index == run.first.index + i) packed_end_ = {};
      ++last.count;
      ++i;
    }
    if (last.count == 0) {
      ++i;
      continue;
    }
    const Range bytes = g.bytes_of(last).intersect({0, file_.size()});
    if (!bytes.empty()) (void)co_await file_.discard(bytes).result();
  }
}

}  // namespace tidemark::qcow2
