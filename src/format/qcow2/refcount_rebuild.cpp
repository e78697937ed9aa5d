// Counts made anew, where those of the image are not to be trusted.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "format/qcow2/refcounts.hpp"

namespace tidemark::qcow2 {

Task<> Refcounts::clear_block(std::uint64_t block) {
  const Geometry& g = file_.geometry();
  for (std::uint64_t i = 0; i < g.block_entries(); i += g.block_slice_entries()) {
    const Place place = place_of({block * g.block_entries() + i});
    if (place.slice_at.value == 0) co_return;
    const TableCache::Pin slice = co_await slice_of(place);
    std::memset(slice->writable(), 0, g.block_slice_size());
    blocks_.changed(*slice);
  }
  next_ = {};
}

// Counts the run once more, where need be in new blocks behind all that is there.
Task<> Refcounts::raise(HostRun run) {
  while (run.count != 0) {
    const Place place = place_of(run.first);
    if (place.slice_at.value == 0) {
      co_await add_block_behind(place.block);
      continue;
    }
    const TableCache::Pin slice = co_await slice_of(place);
    const std::uint64_t here = std::min(run.count, place.left);
    for (std::uint64_t i = 0; i < here; ++i) {
      const std::uint64_t count = get(*slice, place.entry + i);
      if (count == file_.geometry().refcount_max())
        co_await Error(Errc::out_of_range, "qcow2: cluster " + std::to_string(run.first.index + i) + " has more users than " +
                                               std::to_string(file_.geometry().refcount_bits()) + " bits of refcount can say", ERANGE);
      put(*slice, place.entry + i, count + 1);
    }
    run = {{run.first.index + here}, run.count - here};
  }
}

Task<> Refcounts::add_block_behind(std::uint64_t block) {
  const Geometry& g = file_.geometry();
  if (block >= table_.size()) co_await file_.corrupt("the refcount table does not reach the end of the file");
  const HostRun self{{std::max(file_.used_end() >> g.cluster_bits, block * g.block_entries())}, 1};
  co_await file_.grow(g.bytes_of(self).end());
  (void)file_.take(self);
  AlignedBuffer zeroes(g.cluster_size());
  Buffers(zeroes.bytes()).fill_zero();
  co_await file_.write(g.offset_of(self.first), zeroes.bytes());
  file_.wrote(Stage::refcount_blocks);
  file_.add_metadata(self);
  table_.set(block, g.offset_of(self.first).value);
  co_await raise(self);
}

}  // namespace tidemark::qcow2
