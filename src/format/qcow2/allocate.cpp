// Writes that need a place.
#include <algorithm>

#include "format/qcow2/pending_clusters.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

constexpr Duration readers_max = std::chrono::seconds(5), readers_pause = std::chrono::milliseconds(1);

}  // namespace

Task<std::unique_ptr<PendingWrite>> Qcow2Driver::prepare_write(Range wanted) { return watch(prepare(wanted)); }

Task<std::unique_ptr<PendingWrite>> Qcow2Driver::prepare(Range wanted) {
  co_await unwrap(check_writable());
  co_await relieve();
  const Geometry& g = header_.geometry;
  wanted.length = std::min(wanted.length, g.slice_span() - wanted.offset % g.slice_span());
  const std::uint64_t expected = co_await clusters_to_place(wanted);
  if (expected == 0) co_return nullptr;
  const Range clusters{align_down(wanted.offset, g.cluster_size()), expected * g.cluster_size()};
  auto pending = std::make_unique<PendingClusters>(*this, clusters);
  RangeLock::Guard& changing = pending->changing();
  co_await changing;
  // Another may have placed some meanwhile.
  pending->entries_ = co_await map_.writable_entries_at(wanted.offset);
  const std::uint64_t count = clusters_to_place(pending->entries_, expected);
  if (count == 0) co_return nullptr;
  co_await place(*pending, wanted, count);
  co_return pending;
}

// How many clusters from the first on are not this image's own data; none of them: zero.
std::uint64_t Qcow2Driver::clusters_to_place(const ClusterMap::Entries& entries, std::uint64_t max) const noexcept {
  if (!entries || !entries.owned) return max;
  std::uint64_t count = 0;
  while (count < max && (!entries[count].owned() || entries[count].zero())) ++count;
  return count;
}

Task<std::uint64_t> Qcow2Driver::clusters_to_place(Range wanted) {
  const ClusterMap::Entries entries = co_await map_.entries_at(wanted.offset);
  const std::uint64_t max = wanted.widened(header_.geometry.cluster_size()).length >> header_.geometry.cluster_bits;
  const std::uint64_t count = clusters_to_place(entries, max);
  if (count != 0 || map_.owned_now(wanted)) co_return count;
  // Its own, but not to be written to: outside the file, or where metadata lies.
  co_await map_.invalid(wanted.offset, entries[0]);
  co_return 0;
}

// Chooses the place for as many of the clusters as can be adjacent.
Task<> Qcow2Driver::place(PendingClusters& pending, Range wanted, std::uint64_t clusters) {
  const Geometry& g = header_.geometry;
  const ClusterMap::Entries& entries = pending.entries_;
  for (std::uint64_t i = 0; i < clusters; ++i)
    if (!map_.valid(entries[i])) co_await map_.invalid(wanted.offset + i * g.cluster_size(), entries[i]);
  const HostCluster own = g.cluster_of(entries[0].host());
  auto reusable = [&](std::uint64_t i) { return entries[i].owned() && entries[i].zero(); };
  std::uint64_t alike = 1;
  if (reusable(0)) {
    while (alike < clusters && reusable(alike) && g.cluster_of(entries[alike].host()).index == own.index + alike)
      ++alike;
    const HostRun run{own, alike};
    if (own.index >= image_.size() >> g.cluster_bits || image_.is_metadata(g.bytes_of(run)))
      co_await map_.invalid(wanted.offset, entries[0]);
    pending.run_ = run;
    pending.reused_ = true;
  } else {
    while (alike < clusters && !reusable(alike)) ++alike;
    const Refcounts::Allocation found = co_await allocate(alike);
    pending.run_ = found.run;
    pending.reads_as_zero = found.reads_as_zero;
  }
  const std::uint64_t start = align_down(wanted.offset, g.cluster_size());
  const std::uint64_t end = start + pending.run_.count * g.cluster_size();
  pending.range = {wanted.offset, std::min(wanted.end(), end) - wanted.offset};
  pending.host_offset = g.offset_of(pending.run_.first).value + (wanted.offset - start);
  pending.before = {start, wanted.offset - start};
  const std::uint64_t rest = pending.range.end();
  pending.after = {rest, align_up(rest, g.cluster_size()) - rest};
}

// When the file cannot grow, what was freed but not yet given back may do: at once when that is durable, or
// when those have ended who may still be reading it.  They are waited for within limits, since one of them may
// itself wait for what our caller holds.
Task<Refcounts::Allocation> Qcow2Driver::allocate(std::uint64_t clusters) {
  Result<Refcounts::Allocation> found = co_await refcounts_.allocate(clusters).result();
  const auto is_full = [&found] { return !found && found.error().code() == Errc::no_space; };
  if (!is_full() || frees_.empty()) co_return co_await unwrap(found);
  co_await committer_.flush();
  Reactor& here = home().reactor();
  const Instant until = here.now() + readers_max;
  for (;;) {
    found = co_await refcounts_.allocate(clusters).result();
    if (!is_full() || frees_.none_durable() || here.now() >= until) co_return co_await unwrap(found);
    co_await here.sleep(readers_pause);
  }
}

}  // namespace tidemark
