// More refcounts: a new block, or a new table where the old one is full.
//
// Both lie in clusters that nothing counted yet: the first of the stretch that the new blocks count,
// so that they count themselves.
#include <algorithm>
#include <cerrno>

#include "format/qcow2/refcount_slice.hpp"
#include "format/qcow2/refcounts.hpp"

namespace tidemark::qcow2 {

Task<> Refcounts::add_block(std::uint64_t block) {
  const Geometry& g = geometry_;
  const HostRun self{{block * g.block_entries()}, 1};
  if (file_.is_metadata(g.bytes_of(self)))
    co_await file_.corrupt("refcount block " + std::to_string(block) + " is missing where there is metadata");
  co_await write_new_blocks(self, 1);
  file_.add_metadata(self, Metadata::refcount_block);
  table_.set(block, g.offset_of(self.first).value);
}

// Blocks at the start of the run, which count the whole run once.
Task<> Refcounts::write_new_blocks(HostRun used, std::uint64_t blocks) {
  const Geometry& g = geometry_;
  co_await file_.grow(g.bytes_of(used).end());
  (void)file_.take(used);
  AlignedBuffer bytes(g.cluster_size());
  for (std::uint64_t i = 0; i < blocks; ++i) {
    Buffers(bytes.bytes()).fill_zero();
    const std::uint64_t counted = i * g.block_entries();
    const std::uint64_t ones = std::min(g.block_entries(), used.count - std::min(used.count, counted));
    for (std::uint64_t entry = 0; entry < ones; ++entry)
      set_refcount_entry(bytes.data(), entry, g.refcount_order, 1);
    const HostCluster place{used.first.index + i};
    co_await file_.write(g.offset_of(place), bytes.bytes());
  }
  file_.wrote(Stage::refcount_blocks);
}

// [new blocks][new table], durable; then the header points there; then the old table is free.
Task<> Refcounts::grow_table(std::uint64_t block) {
  const Geometry& g = geometry_;
  const std::uint64_t old_entries = table_.size(), per_cluster = g.cluster_size() / entry_bytes;
  const std::uint64_t entries = align_up(std::max(old_entries * 2, block + 2), per_cluster);
  if (entries * entry_bytes > refcount_table_bytes_max)
    co_await Error(Errc::no_space, "qcow2: the refcount table would exceed 8 MiB", EFBIG);
  const std::uint64_t table_clusters = entries / per_cluster;
  const std::uint64_t blocks = div_up(table_clusters, g.block_entries() - 1);
  const HostRun used{{old_entries * g.block_entries()}, blocks + table_clusters};
  const HostRun old_table{g.cluster_of(table_.at()), old_entries / per_cluster};
  const HostOffset table_at = g.offset_of({used.first.index + blocks});

  co_await write_new_blocks(used, blocks);
  std::vector<std::uint64_t> larger = table_.entries();
  larger.resize(entries);
  for (std::uint64_t i = 0; i < blocks; ++i) larger[old_entries + i] = g.offset_of({used.first.index + i}).value;
  co_await file_.flush();
  co_await table_.write_copy(table_at, larger);
  co_await file_.flush();
  co_await header_.set_refcount_table(table_at, static_cast<std::uint32_t>(table_clusters));
  file_.add_metadata(used, Metadata::refcount_table);
  table_.replace(table_at, std::move(larger));
  file_.remove_metadata(old_table);
  free_later(old_table);
}

}  // namespace tidemark::qcow2
