// Writes that need a place.
#include <algorithm>
#include <cerrno>

#include "block/node.hpp"
#include "format/qcow2/pending_clusters.hpp"

namespace tidemark {

using namespace qcow2;

namespace {

constexpr Duration readers_max = std::chrono::seconds(5), readers_pause = std::chrono::milliseconds(1);

}  // namespace

Task<std::unique_ptr<PendingWrite>> Qcow2Driver::prepare_write(Range wanted) { return watch(prepare(wanted)); }

Task<std::unique_ptr<PendingWrite>> Qcow2Driver::prepare(Range wanted) {
  co_await unwrap(check_writable());
  co_await before_change();
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
  const std::uint64_t count = clusters_to_place(pending->entries_, wanted.offset, expected);
  if (count == 0) co_return nullptr;
  co_await place(*pending, wanted, count);
  co_return pending;
}

// How many clusters from the first on cannot be written in place where the range begins in them; none: zero.
std::uint64_t Qcow2Driver::clusters_to_place(const ClusterMap::Entries& entries, std::uint64_t offset,
                                             std::uint64_t max) const noexcept {
  if (!entries || !entries.owned) return max;
  std::uint32_t subcluster = header_.geometry.subcluster_of(offset);
  std::uint64_t count = 0;
  while (count < max && (!entries[count].owned() || entries[count].mapping(subcluster) != Mapping::data)) {
    subcluster = 0;
    ++count;
  }
  return count;
}

Task<std::uint64_t> Qcow2Driver::clusters_to_place(Range wanted) {
  const ClusterMap::Entries entries = co_await map_.entries_at(wanted.offset);
  const std::uint64_t max = wanted.widened(header_.geometry.cluster_size()).length >> header_.geometry.cluster_bits;
  const std::uint64_t count = clusters_to_place(entries, wanted.offset, max);
  if (count != 0 || map_.owned_now(wanted)) co_return count;
  if (data_file_ && wanted.offset >= data_file_->size()) {
    // Nobody says that it is as long as the disk: what is not there reads as zeroes.
    co_await grow_data_file(std::min(wanted.end(), size()));
    co_return 0;
  }
  co_await refuse_own(wanted.offset, entries[0]);
  co_return 0;
}

bool Qcow2Driver::is_whole(L2Entry entry) const noexcept {
  const Range cluster{entry.host().value, header_.geometry.cluster_size()};
  return cluster.end() <= image_.size() && !image_.is_metadata(cluster);
}

// Its own, but not to be written to: outside the file, or where metadata lies; or the file ends within it and cannot grow.
Task<> Qcow2Driver::refuse_own(std::uint64_t guest, L2Entry entry) {
  const Range cluster{entry.host().value, header_.geometry.cluster_size()};
  const std::uint64_t file_end = image_.size();
  if (map_.valid(guest, entry) && cluster.offset < file_end && file_end < cluster.end() && !image_.is_metadata(cluster))
    co_await Error(Errc::no_space, "qcow2: '" + file_->node().name() + "' ends within its last cluster and cannot grow", ENOSPC);
  co_await map_.invalid(guest, entry);
}

// Chooses the place for as many of the clusters as can be adjacent.
Task<> Qcow2Driver::place(PendingClusters& pending, Range wanted, std::uint64_t clusters) {
  const Geometry& g = header_.geometry;
  const ClusterMap::Entries& entries = pending.entries_;
  const std::uint64_t start = align_down(wanted.offset, g.cluster_size());
  for (std::uint64_t i = 0; i < clusters; ++i)
    if (!map_.valid(start + i * g.cluster_size(), entries[i]))
      co_await map_.invalid(start + i * g.cluster_size(), entries[i]);
  if (g.external_data) co_await place_outside(pending, wanted, clusters);
  else if (entries[0].owned()) co_await place_again(pending, wanted, clusters);
  else co_await place_anew(pending, clusters);
  pending.settle(wanted, size());
}

// In the data file, where the guest sees it.
Task<> Qcow2Driver::place_outside(PendingClusters& pending, Range wanted, std::uint64_t clusters) {
  const Geometry& g = header_.geometry;
  pending.run_ = {{wanted.offset >> g.cluster_bits}, clusters};
  pending.reused_ = true;
  const std::uint64_t end = std::min(g.bytes_of(pending.run_).end(), align_up(size(), sector_size));
  co_await grow_data_file(end);
}

// One at a time: each says how long it is to be.
Task<> Qcow2Driver::grow_data_file(std::uint64_t end) {
  if (end <= data_file_->size()) co_return;
  const auto turn = co_await resizing_data_file_.lock();
  if (end > data_file_->size()) co_await data_file_->truncate(end);
}

// Where the clusters are already, though something of them is still to be written.
Task<> Qcow2Driver::place_again(PendingClusters& pending, Range wanted, std::uint64_t clusters) {
  const Geometry& g = header_.geometry;
  const ClusterMap::Entries& entries = pending.entries_;
  const HostCluster own = g.cluster_of(entries[0].host());
  std::uint64_t alike = 1;
  while (alike < clusters && entries[alike].owned() && g.cluster_of(entries[alike].host()).index == own.index + alike)
    ++alike;
  pending.run_ = {own, alike};
  pending.reused_ = true;
  if (own.index + alike <= image_.size() >> g.cluster_bits && !image_.is_metadata(g.bytes_of(pending.run_))) co_return;
  std::uint64_t bad = 0;
  while (bad + 1 < alike && is_whole(entries[bad])) ++bad;
  co_await refuse_own(align_down(wanted.offset, g.cluster_size()) + bad * g.cluster_size(), entries[bad]);
}

Task<> Qcow2Driver::place_anew(PendingClusters& pending, std::uint64_t clusters) {
  std::uint64_t alike = 1;
  while (alike < clusters && !pending.entries_[alike].owned()) ++alike;
  const Refcounts::Allocation found = co_await allocate(alike);
  pending.run_ = found.run;
  pending.reads_as_zero = found.reads_as_zero;
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
    co_await give_back(without_limit);
    found = co_await refcounts_.allocate(clusters).result();
    if (!is_full() || frees_.none_durable() || here.now() >= until) co_return co_await unwrap(found);
    co_await here.sleep(readers_pause);
  }
}

}  // namespace tidemark
