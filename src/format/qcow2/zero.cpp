// Zeroes and discards: changes of the map alone.
#include <algorithm>

#include "format/qcow2/driver.hpp"

namespace tidemark {

using namespace qcow2;

Task<> Qcow2Driver::write_zeroes(Range range, WriteFlags flags) {
  // Version 2 cannot say "reads as zeroes"; without a backing file, open or not, saying nothing does.
  const bool free = has(flags, WriteFlags::may_unmap);
  if (header_.geometry.version < 3 && (stands_on_another() || !free))
    co_await Error(Errc::unsupported, "qcow2: zero clusters need version 3");
  const Zeroing how = free ? Zeroing::free_clusters : Zeroing::keep_clusters;
  co_await watch(zero_clusters(range, how));
}

Task<> Qcow2Driver::discard(Range range) {
  if (header_.geometry.version < 3 && stands_on_another())
    co_await Error(Errc::unsupported, "qcow2: discarding over a backing file needs version 3");
  co_await watch(zero_clusters(range, Zeroing::discard));
}

Task<> Qcow2Driver::zero_clusters(Range range, Zeroing how) {
  const Geometry& g = header_.geometry;
  const auto pinned = pin();
  range = range.narrowed(g.cluster_size());
  while (!range.empty()) {
    co_await unwrap(check_writable());
    co_await relieve();
    const std::uint64_t to_end = g.slice_span() - range.offset % g.slice_span();
    const Range part{range.offset, std::min(range.length, to_end)};
    co_await zero_slice(part, how);
    range = {part.end(), range.length - part.length};
  }
}

Task<> Qcow2Driver::zero_slice(Range range, Zeroing how) {
  const std::uint64_t clusters = range.length >> header_.geometry.cluster_bits;
  auto changing = changing_.hold(range, RangeLock::Mode::exclusive);
  co_await changing;
  // A look first: often nothing changes, and then no L2 table need be made.
  bool changes = false;
  {
    const ClusterMap::Entries present = co_await map_.entries_at(range.offset);
    for (std::uint64_t i = 0; i < clusters && !changes; ++i) {
      const L2Entry entry = present ? present[i] : L2Entry();
      changes = zeroed(entry, how) != entry;
    }
  }
  if (!changes) co_return;
  ClusterMap::Entries entries = co_await map_.writable_entries_at(range.offset);
  for (std::uint64_t i = 0; i < clusters; ++i) {
    const L2Entry old = entries[i], now = zeroed(old, how);
    if (now == old) continue;
    if (!map_.valid(old)) co_await map_.invalid(range.offset + i * header_.geometry.cluster_size(), old);
    map_.set(entries, i, now);
    if (!now.has_cluster()) map_.release(old);
  }
}

// What an entry becomes.
L2Entry Qcow2Driver::zeroed(L2Entry entry, Zeroing how) const noexcept {
  const L2Entry nothing = header_.geometry.version < 3 ? L2Entry() : L2Entry::of_zeroes();
  const bool stored = entry.compressed() || entry.has_cluster();
  switch (how) {
    case Zeroing::discard:
      // Reads as zeroes afterwards; what did before stays as it is, unless it holds clusters.
      return stored || (backing_ && !entry.zero()) ? nothing : entry;
    case Zeroing::forget: return stored ? nothing : entry;
    case Zeroing::free_clusters: return nothing;
    case Zeroing::keep_clusters: break;
  }
  // A cluster that others share cannot be kept as the place of later writes.
  return entry.owned() ? entry.with_zero() : nothing;
}

}  // namespace tidemark
