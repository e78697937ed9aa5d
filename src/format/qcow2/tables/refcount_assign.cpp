// Counts of a second set, which takes the place of an image's own (next_tables.hpp).
#include <algorithm>
#include <cerrno>

#include "format/qcow2/tables/refcounts.hpp"

namespace tidemark::qcow2 {

// Counts the run once more, where need be in new blocks.
Task<> Refcounts::raise(HostRun run) {
  while (run.count != 0) {
    const Place place = place_of(run.first);
    if (place.slice_at.value == 0) {
      co_await add_block_elsewhere(place.block);
      continue;
    }
    const TableCache::Pin slice = co_await slice_of(place);
    const std::uint64_t here = std::min(run.count, place.left);
    for (std::uint64_t i = 0; i < here; ++i) {
      const std::uint64_t count = get(*slice, place.entry + i);
      if (count == geometry_.refcount_max())
        co_await Error(Errc::out_of_range, "qcow2: cluster " + std::to_string(run.first.index + i) + " has more users than " +
                                               std::to_string(geometry_.refcount_bits()) + " bits of refcount can say", ERANGE);
      put(*slice, place.entry + i, count + 1);
    }
    run = {{run.first.index + here}, run.count - here};
  }
}

Task<> Refcounts::assign(HostCluster cluster, std::uint64_t count) {
  const Geometry& g = geometry_;
  if (count > g.refcount_max())
    co_await Error(Errc::out_of_range, "Cannot decrease refcount entry width to " + std::to_string(g.refcount_bits()) +
                                           " bits: Cluster at offset " + std::to_string(g.offset_of(cluster).value) +
                                           " has a refcount of " + std::to_string(count), ERANGE);
  while (place_of(cluster).slice_at.value == 0) co_await add_block_elsewhere(place_of(cluster).block);
  const Place place = place_of(cluster);
  const TableCache::Pin slice = co_await slice_of(place);
  put(*slice, place.entry, count);
}

Task<> Refcounts::lower_now(HostRun run, std::vector<HostRun>& freed) {
  for (; run.count != 0; run = {{run.first.index + 1}, run.count - 1}) {
    const Place place = place_of(run.first);
    const TableCache::Pin slice = co_await slice_of(place);
    const std::uint64_t count = get(*slice, place.entry);
    if (count == 0) co_await file_.corrupt("cluster " + std::to_string(run.first.index) + " was in use with refcount 0");
    put(*slice, place.entry, count - 1);
    if (count != 1) continue;
    if (!freed.empty() && freed.back().first.index + freed.back().count == run.first.index) ++freed.back().count;
    else freed.push_back({run.first, 1});
  }
}

Task<> Refcounts::add_block_elsewhere(std::uint64_t block) {
  const Geometry& g = geometry_;
  if (block >= table_.size())
    co_await Error(Errc::no_space, "qcow2: the new refcount table has no room for refcount block " + std::to_string(block), EFBIG);
  TM_ASSERT(space_);
  const HostRun self = (co_await space_->allocate(1)).run;
  AlignedBuffer zeroes(g.cluster_size());
  Buffers(zeroes.bytes()).fill_zero();
  co_await file_.write(g.offset_of(self.first), zeroes.bytes());
  file_.wrote(Stage::refcount_blocks);
  file_.add_metadata(self, Metadata::refcount_block);
  table_.set(block, g.offset_of(self.first).value);
  co_await raise(self);
}

}  // namespace tidemark::qcow2
