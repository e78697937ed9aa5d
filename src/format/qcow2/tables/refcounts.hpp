// Refcounts: who uses which cluster of the image file, and the allocator on top of it.
//
// Counts change in memory and are written back by the Committer: up before a table points at the
// cluster, down only after no durable table does (FreeList).  A cluster whose count is not zero in
// memory is never handed out.
//
// allocate_now() and what it touches run without suspension; growth (a new block, a larger table, a
// longer file) runs one at a time under growing_.
#pragma once

#include <functional>

#include "format/qcow2/layout/free_list.hpp"
#include "format/qcow2/tables/header_writer.hpp"
#include "format/qcow2/tables/table_cache.hpp"
#include "format/qcow2/tables/top_table.hpp"

namespace tidemark::qcow2 {

class Refcounts {
 public:
  void pass_discards(DiscardCauses causes) noexcept { pass_discards_ = causes; }
  Refcounts(Executor& executor, ImageFile& file, HeaderWriter& header, FreeList& frees,
             std::size_t cache_slices, DiscardCauses pass_discards)
      : file_(file), geometry_(file.geometry()), header_(header), frees_(frees), pass_discards_(pass_discards), table_(file),
        blocks_(executor, file, DebugEvent::refblock_load, file.geometry().block_slice_size(), cache_slices), growing_(executor),
        packing_(executor), freeing_(executor) {}

  Task<> load(HostOffset table_at, std::uint64_t table_clusters);
  // What another set of counts made takes the place of all that is in memory.
  void become(Refcounts& other) noexcept;
  // The table and its blocks are metadata nobody else may touch.
  Result<> claim_tables();
  TopTable& table() noexcept { return table_; }
  TableCache& blocks() noexcept { return blocks_; }

  // Clusters of count zero, which becomes one: adjacent, at least one, at most `want`.
  struct Allocation {
    HostRun run;
    bool reads_as_zero = false;
  };
  Task<Allocation> allocate(std::uint64_t want);
  // The same for exactly `count` adjacent clusters.  What was too short on the way is freed later, or the caller's.
  Task<Allocation> allocate_exactly(std::uint64_t count, std::vector<HostRun>* too_short = nullptr);
  // Room for `length` bytes (at most a cluster) of compressed data; the clusters they touch count
  // one reference more.
  Task<HostOffset> allocate_bytes(std::uint64_t length);

  // One reference less each, once no durable table and no request uses them.
  void free_later(HostRun run, DiscardCause cause = DiscardCause::other) { frees_.add(run, cause); }
  FreeList& frees() noexcept { return frees_; }
  // The image was opened anew: what was on its way to be free is forgotten.
  Task<> forget_frees();
  // Lowers the counts of what has become free since, until that is enough.
  Task<> apply_frees(std::function<bool()> enough = {});

  Task<std::uint64_t> count(HostCluster cluster);

  // For a second set of counts of the same file, whose clusters come from `other`: the run is used once more.
  void take_space_from(Refcounts& other) noexcept { space_ = &other; }
  Task<> raise(HostRun run);
  // The run is used once less; what nobody uses any more is added to `freed`.
  Task<> lower_now(HostRun run, std::vector<HostRun>& freed);

  Task<> assign(HostCluster cluster, std::uint64_t count);
  // How wide the counts of the table that is loaded next are.
  void set_order(std::uint32_t order) noexcept { geometry_.refcount_order = order; }
  const Geometry& geometry() const noexcept { return geometry_; }
  void adopt_table(HostOffset at, std::vector<std::uint64_t> entries) noexcept { table_.replace(at, std::move(entries)); }

 private:
  struct Place {                         // of a cluster's count
    std::uint64_t block = 0;             // index into the refcount table
    HostOffset slice_at;                 // 0 when there is no block
    std::uint64_t entry = 0;             // within the slice
    std::uint64_t left = 0;              // entries of the slice from that one on
  };
  Place place_of(HostCluster cluster) const noexcept;
  Task<TableCache::Pin> slice_of(Place place);
  std::uint64_t get(const TableCache::Slice& slice, std::uint64_t entry) const noexcept;
  void put(TableCache::Slice& slice, std::uint64_t entry, std::uint64_t count);

  void forget() noexcept;
  std::optional<Allocation> allocate_now(std::uint64_t want);
  Task<> make_ready(std::uint64_t want);
  Task<> add_block(std::uint64_t block);
  Task<> add_block_elsewhere(std::uint64_t block);
  Task<> grow_table(std::uint64_t block);
  Task<bool> write_new_blocks(HostRun used, std::uint64_t blocks);
  Task<Allocation> allocate_with_blocks(std::uint64_t count);
  std::uint64_t first_unused_block() const noexcept;
  Task<bool> share_packed(HostOffset at);
  Task<> lower(FreeList::Freed& freed);
  Task<> discard_last_uses(const TableCache::Slice& slice, std::uint64_t entry, HostRun run);

  ImageFile& file_;
  Geometry geometry_;                    // the file's, but for how wide counts are while that changes
  HeaderWriter& header_;
  FreeList& frees_;
  DiscardCauses pass_discards_;
  TopTable table_;
  TableCache blocks_;
  Mutex growing_, packing_, freeing_;
  Refcounts* space_ = nullptr;
  HostCluster next_;                     // no cluster below it is free, as far as is known
  HostOffset packed_end_;                // behind the last compressed data; aligned: begin a new cluster
};

}  // namespace tidemark::qcow2
