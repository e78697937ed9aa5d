// The map changes: new L2 tables, a longer L1 table, clusters let go.
#include <algorithm>

#include "format/qcow2/tables/cluster_map.hpp"

namespace tidemark::qcow2 {

Task<ClusterMap::Entries> ClusterMap::writable_entries_at(std::uint64_t guest) {
  if (!(l1_raw(guest) & L2Entry::copied_flag)) co_await make_table(guest);
  co_return co_await entries_at(guest);
}

// Gives the guest offset an L2 table of the image's own: empty, or a copy of the one it shares.
Task<> ClusterMap::make_table(std::uint64_t guest) {
  const Geometry& g = file_.geometry();
  const auto turn = co_await creating_.lock();
  const std::uint64_t raw = l1_raw(guest);
  if (raw & L2Entry::copied_flag) co_return;             // another was faster
  if (raw != 0) co_await check_table(guest);
  const Refcounts::Allocation place = co_await refcounts_.allocate(1);
  Result<> filled = co_await fill_table(place, raw & l1_offset_mask).result();
  if (filled) filled = file_.intact();
  if (!filled) {
    refcounts_.free_later(place.run);
    co_await filled.error();
  }
  file_.wrote(Stage::data);
  file_.add_metadata(place.run, Metadata::active_l2);
  l2_.forget(g.bytes_of(place.run));                     // it may have been a table before
  l1_.set(guest / g.l2_span(), g.offset_of(place.run.first).value | L2Entry::copied_flag);
  if (raw == 0) co_return;
  const HostRun shared{g.cluster_of({raw & l1_offset_mask}), 1};
  file_.remove_metadata(shared);
  refcounts_.free_later(shared);
}

Task<> ClusterMap::fill_table(Refcounts::Allocation place, std::uint64_t copy_of) {
  if (copy_of == 0 && place.reads_as_zero) co_return;
  AlignedBuffer bytes(file_.geometry().cluster_size());
  const HostOffset source{copy_of};
  if (copy_of != 0) {
    file_.tell(DebugEvent::l2_alloc_cow_read);
    co_await file_.read(source, bytes.bytes());
  } else {
    Buffers(bytes.bytes()).fill_zero();
  }
  file_.tell(DebugEvent::l2_alloc_write);
  co_await file_.write(file_.geometry().offset_of(place.run.first), bytes.bytes());
}

void ClusterMap::release(L2Entry entry, DiscardCause cause) {
  const Geometry& g = file_.geometry();
  if (g.external_data) return;            // nobody counts its clusters
  const HostRun data = clusters_of(entry, g);
  if (data.count != 0) refcounts_.free_later(data, cause);
}

Task<> ClusterMap::grow_l1(std::uint64_t size, Committer& committer) {
  const Geometry& g = file_.geometry();
  const auto turn = co_await creating_.lock();           // the table does not change meanwhile
  const std::uint64_t entries = l1_entries_for(g, size);
  if (entries <= l1_.size()) co_return;
  if (entries * entry_bytes > l1_bytes_max)
    co_await Error(Errc::no_space, "qcow2: the L1 table of a disk of " + std::to_string(size) +
                                       " bytes would exceed 32 MiB");
  const HostRun old{g.cluster_of(l1_.at()), g.clusters_for(l1_.size() * entry_bytes)};
  file_.tell(DebugEvent::l1_grow_alloc_table);
  const Refcounts::Allocation place = co_await refcounts_.allocate_exactly(g.clusters_for(entries * entry_bytes));
  const HostOffset at = g.offset_of(place.run.first);
  std::vector<std::uint64_t> longer = l1_.entries();
  longer.resize(entries);
  const Result<> written = co_await write_longer_l1(at, longer, committer).result();
  if (!written) {
    refcounts_.free_later(place.run);
    co_await written.error();
  }
  file_.add_metadata(place.run, Metadata::active_l1);
  l1_.replace(at, std::move(longer));
  if (old.count == 0) co_return;
  file_.remove_metadata(old);
  refcounts_.free_later(old);
}

// The round makes durable what the entries point at and that the new clusters are in use.
Task<> ClusterMap::write_longer_l1(HostOffset at, const std::vector<std::uint64_t>& entries,
                                   Committer& committer) {
  co_await committer.flush();
  file_.tell(DebugEvent::l1_grow_write_table);
  co_await l1_.write_copy(at, entries);
  file_.tell(DebugEvent::l1_grow_activate_table);
  co_await header_.set_l1_table(at, static_cast<std::uint32_t>(entries.size()));
}

}  // namespace tidemark::qcow2
