// A new refcount structure, behind everything that is in use: written and durable before the header points at it.  The
// old one's clusters are free then.
#include <algorithm>
#include <cerrno>

#include "format/qcow2/check/check_repair.hpp"
#include "format/qcow2/layout/refcount_slice.hpp"

namespace tidemark::qcow2 {

Task<> CheckRepair::rebuild() {
  const Structure structure = lay_out();
  const std::uint64_t bytes = structure.end() << geometry_.cluster_bits;
  if (structure.table_clusters << geometry_.cluster_bits > refcount_table_bytes_max)
    co_await Error(Errc::unsupported, "qcow2: the refcount table would be too large");
  if (bytes > file_.size()) {
    auto grown = co_await file_.truncate(bytes).result();
    if (!grown && grown.error().code() == Errc::unsupported)
      co_await Error(Errc::no_space, "qcow2: there is no room for a new refcount structure", ENOSPC);
    co_await unwrap(grown);
  }
  forget_old_structure();
  co_await write_blocks(structure);
  co_await write_table(structure);
  co_await file_.flush();
  std::byte fields[12];
  store_be(fields, structure.first << geometry_.cluster_bits);
  store_be(fields + 8, static_cast<std::uint32_t>(structure.table_clusters));
  co_await file_.write(HeaderField::refcount_table, Buffers(MutableBytes(fields)));
  co_await file_.flush();
}

// Each of its clusters was counted once for it; what else refers to one of them still does.
void CheckRepair::forget_old_structure() {
  CheckCounts& counts = checker_.counts();
  auto forget = [&](std::uint64_t cluster) {
    const std::uint64_t references = counts[cluster];
    if (references == 0) return;
    counts.clear(cluster);
    if (references > 1) counts.add({{cluster}, 1}, references - 1);
  };
  const Header& h = checker_.header();
  const std::uint64_t table = h.refcount_table_at.value >> geometry_.cluster_bits;
  for (std::uint64_t i = 0; i < h.refcount_table_clusters; ++i)
    if (table + i < counts.clusters()) forget(table + i);
  for (std::uint64_t i = 0; i < checker_.refcount_table().size(); ++i)
    if (const auto at = checker_.block_at(i)) forget(*at >> geometry_.cluster_bits);
}

// The structure counts itself, so that more blocks may need more blocks.
CheckRepair::Structure CheckRepair::lay_out() {
  const CheckCounts& counts = checker_.counts();
  Structure structure;
  structure.first = checker_.end_cluster();
  std::vector<std::uint64_t> used;
  for (std::uint64_t cluster = 0; cluster < counts.clusters(); ++cluster) {
    if (counts[cluster] == 0) continue;
    used.push_back(cluster / geometry_.block_entries());
    cluster = (used.back() + 1) * geometry_.block_entries() - 1;
  }
  for (;;) {
    std::vector<std::uint64_t> needed = used;
    for (std::uint64_t i = structure.first / geometry_.block_entries(); i <= (structure.end() - 1) / geometry_.block_entries(); ++i)
      if (needed.empty() || needed.back() < i) needed.push_back(i);
    const std::uint64_t table_clusters = geometry_.clusters_for((needed.back() + 1) * entry_bytes);
    if (needed == structure.blocks && table_clusters == structure.table_clusters) return structure;
    structure.blocks = std::move(needed);
    structure.table_clusters = table_clusters;
  }
}

std::uint64_t CheckRepair::count_in(const Structure& structure, std::uint64_t cluster) const {
  const CheckCounts& counts = checker_.counts();
  const std::uint64_t own = cluster >= structure.first && cluster < structure.end() ? 1 : 0;
  return own + (cluster < counts.clusters() ? counts[cluster] : 0);
}

Task<> CheckRepair::write_blocks(const Structure& structure) {
  AlignedBuffer block(geometry_.cluster_size());
  std::uint64_t at = (structure.first + structure.table_clusters) << geometry_.cluster_bits;
  for (const std::uint64_t index : structure.blocks) {
    co_await checker_.go_on();
    for (std::uint64_t i = 0; i < geometry_.block_entries(); ++i) {
      const std::uint64_t count = count_in(structure, index * geometry_.block_entries() + i);
      set_refcount_entry(block.data(), i, geometry_.refcount_order, std::min(count, geometry_.refcount_max()));
    }
    co_await file_.write(at, Buffers(block.bytes()));
    at += geometry_.cluster_size();
  }
}

Task<> CheckRepair::write_table(const Structure& structure) {
  AlignedBuffer table(structure.table_clusters << geometry_.cluster_bits);
  Buffers(table.bytes()).fill_zero();
  std::uint64_t block = structure.first + structure.table_clusters;
  for (const std::uint64_t index : structure.blocks)
    store_be(table.data() + index * entry_bytes, block++ << geometry_.cluster_bits);
  co_await file_.write(structure.first << geometry_.cluster_bits, Buffers(table.bytes()));
}

}  // namespace tidemark::qcow2
