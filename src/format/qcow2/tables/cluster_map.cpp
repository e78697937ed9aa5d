#include "format/qcow2/tables/cluster_map.hpp"

#include <algorithm>

namespace tidemark::qcow2 {
namespace {

// Of an L2 table's entries.  Each layer of a chain is asked for each request: there are no divisions on that way.
std::uint32_t table_bits(const Geometry& g) noexcept { return g.cluster_bits - (g.extended_l2 ? 4 : 3); }

}  // namespace

Task<> ClusterMap::load(const Header& header) {
  co_await l1_.load(header.l1_at, header.l1_entries);
}

void ClusterMap::adopt(HostOffset at, std::vector<std::uint64_t> entries) noexcept {
  l2_.forget_all();
  l1_.replace(at, std::move(entries));
}

Result<> ClusterMap::claim_tables() {
  const Geometry& g = file_.geometry();
  const HostRun l1{g.cluster_of(l1_.at()), g.clusters_for(l1_.size() * entry_bytes)};
  if (l1.count != 0)
    if (auto ok = file_.claim_metadata(l1, Metadata::active_l1); !ok) return ok;
  for (const std::uint64_t entry : l1_.entries()) {
    const std::uint64_t at = entry & l1_offset_mask;
    if (at == 0 || !g.cluster_aligned(at)) continue;     // found out when it is used
    if (auto ok = file_.claim_metadata({g.cluster_of({at}), 1}, Metadata::active_l2); !ok) return ok;
  }
  return {};
}

std::uint64_t ClusterMap::l1_raw(std::uint64_t guest) const noexcept {
  const Geometry& g = file_.geometry();
  const std::uint64_t i = guest >> (g.cluster_bits + table_bits(g));
  return i < l1_.size() ? l1_[i] : 0;
}

HostOffset ClusterMap::slice_at(std::uint64_t table, std::uint64_t guest) const noexcept {
  const Geometry& g = file_.geometry();
  const std::uint64_t in_table = ((guest >> g.cluster_bits) & (g.l2_entries() - 1)) * entry_bytes * g.l2_entry_words();
  return HostOffset{table} + (in_table & ~(g.slice_size() - 1));
}

Range ClusterMap::within_slice(Range wanted) const noexcept {
  const std::uint64_t span = file_.geometry().slice_span();
  return {wanted.offset, std::min(wanted.length, span - (wanted.offset & (span - 1)))};
}

bool ClusterMap::valid(std::uint64_t guest, L2Entry entry) const noexcept {
  const Geometry& g = file_.geometry();
  if (entry.compressed()) return !g.external_data && CompressedPlace::of(entry, g).at.value < file_.size();
  if (!entry.well_formed() || (entry.zeroes() != 0 && g.version < 3)) return false;
  const std::uint64_t host = entry.host().value;
  if (g.external_data) return !entry.has_cluster() || host == align_down(guest, g.cluster_size());
  return g.cluster_aligned(host) && (entry.allocated() == 0 || host < file_.size());
}

Error ClusterMap::invalid(std::uint64_t guest, L2Entry entry) {
  return file_.corrupt("the L2 entry of guest offset " + std::to_string(guest) + " points at " +
                       std::to_string(entry.host().value));
}

// Stretches without an L2 table cost one step each.
Extent ClusterMap::unmapped(Range wanted) const noexcept {
  const std::uint64_t span = file_.geometry().l2_span();
  std::uint64_t end = wanted.offset - wanted.offset % span + span;
  while (end < wanted.end() && l1_raw(end) == 0) end += span;
  return {{wanted.offset, std::min(end, wanted.end()) - wanted.offset}, Mapping::below, {}};
}

std::optional<Extent> ClusterMap::extent_of(const TableCache::Slice& slice, Range wanted) const noexcept {
  const Geometry& g = file_.geometry();
  wanted = within_slice(wanted);
  std::uint64_t i = (wanted.offset >> g.cluster_bits) & (g.slice_entries() - 1);
  const std::uint64_t start = align_down(wanted.offset, g.cluster_size());
  const L2Entry first = read_entry(g, slice, i);
  if (!valid(start, first)) return {};
  const std::uint32_t subcluster = g.subcluster_of(wanted.offset);
  const Mapping mapping = first.mapping(subcluster);
  const bool placed = mapping == Mapping::data || mapping == Mapping::zero_allocated;
  Extent extent{wanted, mapping, {}};
  if (placed) extent.host_offset = first.host().value + g.in_cluster(wanted.offset);
  std::uint64_t end = start + (std::uint64_t{first.alike_until(subcluster, g)} << g.subcluster_bits());
  while (end < wanted.end() && g.cluster_aligned(end) && mapping != Mapping::compressed) {
    const L2Entry next = read_entry(g, slice, ++i);
    if (next.mapping(0) != mapping || !valid(end, next)) break;
    if (placed && next.host().value != first.host().value + (end - start)) break;
    end += std::uint64_t{next.alike_until(0, g)} << g.subcluster_bits();
  }
  extent.range.length = std::min(end, wanted.end()) - wanted.offset;
  if (mapping == Mapping::data) cut_at_file_end(extent);
  return extent;
}

// The last cluster may be longer than the file: what is not there reads as zeroes.
void ClusterMap::cut_at_file_end(Extent& extent) const noexcept {
  const std::uint64_t file_size = file_.data().size(), at = *extent.host_offset;
  if (at < file_size) {
    extent.range.length = std::min(extent.range.length, file_size - at);
  } else {
    extent.mapping = Mapping::zero;
    extent.host_offset.reset();
  }
}

std::optional<Extent> ClusterMap::find_now(Range wanted) noexcept {
  const std::uint64_t raw = l1_raw(wanted.offset);
  if (raw == 0) return unmapped(wanted);
  const TableCache::Slice* slice = l2_.find(slice_at(raw & l1_offset_mask, wanted.offset));
  if (!slice) return {};
  return extent_of(*slice, wanted);
}

Task<Extent> ClusterMap::find(Range wanted) {
  const Entries entries = co_await entries_at(wanted.offset);
  if (!entries) co_return unmapped(wanted);
  if (!valid(wanted.offset, entries[0])) co_await invalid(wanted.offset, entries[0]);
  co_return *extent_of(*entries.slice, wanted);
}

std::optional<Extent> ClusterMap::owned_now(Range wanted) noexcept {
  const Geometry& g = file_.geometry();
  const std::uint64_t raw = l1_raw(wanted.offset);
  if (!(raw & L2Entry::copied_flag)) return {};
  const TableCache::Slice* slice = l2_.find(slice_at(raw & l1_offset_mask, wanted.offset));
  if (!slice) return {};
  auto extent = extent_of(*slice, wanted);
  if (!extent || extent->mapping != Mapping::data) return {};
  // The extent goes as far as each cluster is this image's alone.
  const std::uint64_t i = (wanted.offset >> g.cluster_bits) % g.slice_entries();
  const std::uint64_t clusters = g.clusters_for(g.in_cluster(wanted.offset) + extent->range.length);
  std::uint64_t owned = 0;
  while (owned < clusters && read_entry(g, *slice, i + owned).owned()) ++owned;
  if (owned == 0) return {};
  const std::uint64_t length = owned * g.cluster_size() - g.in_cluster(wanted.offset);
  extent->range.length = std::min(extent->range.length, length);
  if (g.external_data) return extent;
  if (file_.is_metadata({*extent->host_offset, extent->range.length})) return {};
  return extent;
}

Task<> ClusterMap::check_table(std::uint64_t guest) {
  const std::uint64_t at = l1_raw(guest) & l1_offset_mask;
  if (at == 0 || !file_.geometry().cluster_aligned(at) || at >= file_.size())
    co_await file_.corrupt("the L2 table of guest offset " + std::to_string(guest) + " lies at " +
                           std::to_string(at));
}

ClusterMap::Entries ClusterMap::position(TableCache::Pin slice, std::uint64_t guest, bool owned) const noexcept {
  const Geometry& g = file_.geometry();
  Entries entries;
  entries.slice = std::move(slice);
  entries.geometry = &g;
  entries.first = (guest >> g.cluster_bits) % g.slice_entries();
  entries.left = g.slice_entries() - entries.first;
  entries.owned = owned;
  return entries;
}

std::uint64_t ClusterMap::next_table(std::uint64_t guest, std::uint64_t end) const noexcept {
  const std::uint64_t span = file_.geometry().l2_span();
  while (guest < end && l1_raw(guest) == 0) guest = align_down(guest, span) + span;
  return std::min(guest, end);
}

Task<ClusterMap::Entries> ClusterMap::entries_at(std::uint64_t guest) {
  const std::uint64_t raw = l1_raw(guest);
  if (raw == 0) co_return position({}, guest, false);
  co_await check_table(guest);
  TableCache::Pin slice = co_await l2_.get(slice_at(raw & l1_offset_mask, guest));
  co_return position(std::move(slice), guest, raw & L2Entry::copied_flag);     // of this table, if there is another by now
}

}  // namespace tidemark::qcow2
