#include "format/qcow2/pending_clusters.hpp"

#include <algorithm>

namespace tidemark {

using namespace qcow2;

namespace {

// What a cluster that moves has stored, from its first stored subcluster to its last, goes with it.
Range stored_in(const Geometry& g, L2Entry entry, std::uint64_t cluster) {
  const Subclusters stored = entry.compressed() ? all_subclusters(g) : entry.allocated();
  if (stored == 0) return {cluster, 0};
  const auto first = static_cast<std::uint64_t>(std::countr_zero(stored)), end = static_cast<std::uint64_t>(std::bit_width(stored));
  return {cluster + (first << g.subcluster_bits()), (end - first) << g.subcluster_bits()};
}

}  // namespace

void Qcow2Driver::PendingClusters::settle(Range wanted, std::uint64_t size) noexcept {
  const Geometry& g = driver_.header_.geometry;
  const std::uint64_t first = align_down(wanted.offset, g.cluster_size());
  const std::uint64_t limit = first + run_.count * g.cluster_size();
  range = {wanted.offset, std::min(wanted.end(), limit) - wanted.offset};
  host_offset = g.offset_of(run_.first).value + (wanted.offset - first);
  std::uint64_t from = align_down(range.offset, g.subcluster_size()), to = align_up(range.end(), g.subcluster_size());
  // A subcluster that is there already keeps what is beside the write.
  if (reused_ && entries_[0].mapping(g.subcluster_of(from)) == Mapping::data) from = range.offset;
  if (reused_ && entries_[run_.count - 1].mapping(g.subcluster_of(to - 1)) == Mapping::data) to = range.end();
  if (!reused_) {
    const Range head = stored_in(g, entries_[0], first);
    const Range tail = stored_in(g, entries_[run_.count - 1], limit - g.cluster_size());
    if (!head.empty()) from = std::min(from, head.offset);
    if (!tail.empty()) to = std::max(to, tail.end());
  }
  if (g.external_data) to = std::max(range.end(), std::min(to, align_up(size, sector_size)));
  before = {from, range.offset - from};
  after = {range.end(), to - range.end()};
}

// The storage may have lost it while it was being written.
Result<> Qcow2Driver::PendingClusters::commit() noexcept {
  if (auto ok = driver_.image_.intact(); !ok) return ok;
  const Geometry& g = driver_.header_.geometry;
  const std::uint64_t first = start();
  for (std::uint64_t i = 0; i < run_.count; ++i) {
    const Range cluster{first + i * g.cluster_size(), g.cluster_size()};
    const Range written = Range{before.offset, after.end() - before.offset}.intersect(cluster);
    if (written.empty()) break;
    const Subclusters now = subcluster_range(g.subcluster_of(written.offset), g.subcluster_of(written.end() - 1) + 1);
    const L2Entry old = entries_[i];
    const Subclusters kept = reused_ ? old.allocated() : 0;
    driver_.map_.set(entries_, i, L2Entry::of_data(g.offset_of({run_.first.index + i}), kept | now, old.zeroes() & ~now));
    if (!reused_) driver_.map_.release(old, DiscardCause::never);
  }
  driver_.image_.wrote(Stage::data);
  return {};
}

}  // namespace tidemark
