// The refcount table and its blocks: read twice, before the references are counted and after.
#include <algorithm>

#include "format/qcow2/check/checker.hpp"
#include "format/qcow2/layout/refcount_slice.hpp"

namespace tidemark::qcow2 {

// The block that a table's entry leads to, where it can be followed.
std::optional<std::uint64_t> Checker::block_at(std::uint64_t index) const noexcept {
  if (index >= refcount_table_.size()) return {};
  const std::uint64_t at = align_down(refcount_table_[index], sector_size);
  if (at == 0 || !placed_well(at)) return {};
  return at;
}

Task<> Checker::load_refcounts() {
  const Geometry& g = geometry();
  const std::uint64_t bytes = std::uint64_t{header_.refcount_table_clusters} << g.cluster_bits;
  count(header_.refcount_table_at.value, bytes);
  refcount_table_ = co_await read_table(header_.refcount_table_at, bytes / entry_bytes);
  AlignedBuffer block(g.cluster_size());
  for (std::uint64_t i = 0; i < refcount_table_.size(); ++i) {
    const std::uint64_t raw = refcount_table_[i], at = align_down(raw, sector_size);
    if (raw % sector_size != 0) {
      corrupt("ERROR refcount table entry {} has reserved bits set", i);
      rebuild_ = true;
    }
    if (at == 0) continue;
    if (!g.cluster_aligned(at)) {
      corrupt("ERROR refcount block {} is not cluster aligned; refcount table entry corrupted", i);
      rebuild_ = true;
      continue;
    }
    if (!placed_well(at)) {
      corrupt("ERROR refcount block {} is outside image", i);
      rebuild_ = true;
      continue;
    }
    co_await go_on();
    count(at, g.cluster_size());
    co_await read(at, block.bytes());
    note_ones(i, block.data());
  }
}

void Checker::note_ones(std::uint64_t index, const std::byte* block) {
  const Geometry& g = geometry();
  const std::uint64_t first = index * g.block_entries();
  const std::uint64_t n = first < counts_.clusters() ? std::min(g.block_entries(), counts_.clusters() - first) : 0;
  for (std::uint64_t i = 0; i < n; ++i)
    if (refcount_entry(block, i, g.refcount_order) == 1) counts_.set_one(first + i);
}

Task<> Checker::compare_refcounts() {
  const Geometry& g = geometry();
  for (std::uint64_t i = 0; i < refcount_table_.size(); ++i) {
    const auto at = block_at(i);
    if (!at || counts_[*at >> g.cluster_bits] == 1) continue;
    corrupt("ERROR refcount block {} refcount={}", i, counts_[*at >> g.cluster_bits]);
    rebuild_ = true;
  }
  AlignedBuffer block(g.cluster_size());
  for (std::uint64_t i = 0; i * g.block_entries() < counts_.clusters(); ++i) {
    co_await go_on();
    const auto at = block_at(i);
    if (at) co_await read(*at, block.bytes());
    else Buffers(block.bytes()).fill_zero();
    compare_block(i, block.data());
  }
}

void Checker::compare_block(std::uint64_t index, const std::byte* block) {
  const Geometry& g = geometry();
  const std::uint64_t first = index * g.block_entries();
  const std::uint64_t n = std::min(g.block_entries(), counts_.clusters() - first);
  for (std::uint64_t i = 0; i < n; ++i) compare_cluster(first + i, refcount_entry(block, i, g.refcount_order));
}

void Checker::compare_cluster(std::uint64_t cluster, std::uint64_t refcount) {
  const std::uint64_t references = counts_[cluster];
  if (refcount > 0) highest_ = std::max(highest_, cluster);
  if (refcount == references) return;
  if (refcount > references) {
    ++report_.leaks;
    say("Leaked cluster {} refcount={} reference={}", cluster, refcount, references);
    return;
  }
  miscounted("ERROR cluster {} refcount={} reference={}", cluster, refcount, references);
  if (!block_at(cluster / geometry().block_entries())) rebuild_ = true;
}

}  // namespace tidemark::qcow2
