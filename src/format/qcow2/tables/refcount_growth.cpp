// More refcounts: a new block, or a new table where the old one is full.
//
// Both lie in clusters that nothing counted yet: the first of the stretch that the new blocks count,
// so that they count themselves.
#include <algorithm>
#include <cerrno>

#include "format/qcow2/layout/refcount_slice.hpp"
#include "format/qcow2/tables/refcounts.hpp"

namespace tidemark::qcow2 {

Task<> Refcounts::add_block(std::uint64_t block) {
  const Geometry& g = geometry_;
  const HostRun self{{block * g.block_entries()}, 1};
  if (file_.is_metadata(g.bytes_of(self)))
    co_await file_.corrupt("refcount block " + std::to_string(block) + " is missing where there is metadata");
  file_.tell(DebugEvent::refblock_alloc);
  file_.tell(DebugEvent::refblock_alloc_write);
  (void)co_await write_new_blocks(self, 1);
  file_.add_metadata(self, Metadata::refcount_block);
  table_.set(block, g.offset_of(self.first).value);
}

// Blocks at the start of the run, which count the whole run once.  Whether the run reads as zeroes but for them.
Task<bool> Refcounts::write_new_blocks(HostRun used, std::uint64_t blocks) {
  const Geometry& g = geometry_;
  co_await file_.grow(g.bytes_of(used).end());
  const bool reads_as_zero = file_.take(used);
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
  co_return reads_as_zero;
}

// Behind it nothing is counted.
std::uint64_t Refcounts::first_unused_block() const noexcept {
  std::uint64_t block = table_.size();
  while (block != 0 && table_[block - 1] == 0) --block;
  return block;
}

// [new blocks][the run]
Task<Refcounts::Allocation> Refcounts::allocate_with_blocks(std::uint64_t count) {
  const Geometry& g = geometry_;
  const auto turn = co_await growing_.lock();
  const std::uint64_t blocks = div_up(count, g.block_entries() - 1);
  std::uint64_t first = first_unused_block();
  for (; first + blocks > table_.size(); first = first_unused_block()) co_await grow_table(first + blocks - 1);
  const HostRun used{{first * g.block_entries()}, blocks + count};
  if (file_.is_metadata(g.bytes_of(used)))
    co_await file_.corrupt("refcount block " + std::to_string(first) + " or one behind it is missing where there is metadata");
  const bool reads_as_zero = co_await write_new_blocks(used, blocks);
  const HostRun own{used.first, blocks};
  file_.add_metadata(own, Metadata::refcount_block);
  for (std::uint64_t i = 0; i < blocks; ++i) table_.set(first + i, g.offset_of({used.first.index + i}).value);
  co_return Allocation{{{used.first.index + blocks}, count}, reads_as_zero};
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

  co_await header_.settle();                     // an attempt that failed used the same place
  file_.tell(DebugEvent::refblock_alloc_write_blocks);
  (void)co_await write_new_blocks(used, blocks);
  std::vector<std::uint64_t> larger = table_.entries();
  larger.resize(entries);
  for (std::uint64_t i = 0; i < blocks; ++i) larger[old_entries + i] = g.offset_of({used.first.index + i}).value;
  co_await file_.flush();
  file_.tell(DebugEvent::refblock_alloc_write_table);
  co_await table_.write_copy(table_at, larger);
  file_.tell(DebugEvent::refblock_alloc_switch_table);
  co_await header_.set_refcount_table(table_at, static_cast<std::uint32_t>(table_clusters));
  file_.add_metadata(used, Metadata::refcount_table);
  table_.replace(table_at, std::move(larger));
  file_.remove_metadata(old_table);
  free_later(old_table);
}

}  // namespace tidemark::qcow2
