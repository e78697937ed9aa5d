#include "format/qcow2/check/check_repair.hpp"

#include <algorithm>

#include "format/qcow2/layout/refcount_slice.hpp"

namespace tidemark::qcow2 {

// Nothing is written to a cluster that two things refer to, since one of them may be the guest's data.
//
// Counts go up before any flag says that a cluster has one user, and what is wrong with flags does no harm until then.
Task<> CheckRepair::run() {
  const bool all = checker_.options().repair == Repair::all;
  if (all && checker_.refcounts_need_rebuild()) co_await rebuild();
  else co_await fix_counts();
  co_await file_.flush();
  if (!all && !leaks_only_) co_return;
  co_await fix_flags();
  co_await file_.flush();
}

Task<> CheckRepair::fix_counts() {
  AlignedBuffer block(geometry_.cluster_size());
  for (std::uint64_t i = 0; i < checker_.refcount_table().size(); ++i) {
    const auto at = checker_.block_at(i);
    if (!at || !is_only_user(*at)) continue;
    co_await checker_.go_on();
    co_await checker_.read(*at, block.bytes());
    const bool changed = co_await fix_block(block.bytes(), i * geometry_.block_entries());
    if (changed) co_await file_.write(*at, Buffers(block.bytes()));
  }
}

// A count that does not fit its width stays wrong, and is reported again.
Task<bool> CheckRepair::fix_block(MutableBytes block, std::uint64_t first) {
  CheckCounts& counts = checker_.counts();
  const bool all = checker_.options().repair == Repair::all;
  const std::uint64_t there = first < counts.clusters() ? counts.clusters() - first : 0;
  bool changed = false;
  for (std::uint64_t i = 0; i < std::min(geometry_.block_entries(), there); ++i) {
    const std::uint64_t is = refcount_entry(block.data(), i, geometry_.refcount_order), right = counts[first + i];
    if (is == right || right > geometry_.refcount_max() || (is < right && !all)) continue;
    set_refcount_entry(block.data(), i, geometry_.refcount_order, right);
    changed = true;
  }
  co_return changed;
}

bool CheckRepair::is_only_user(std::uint64_t at) const {
  return checker_.placed_well(at) && checker_.counts()[at >> geometry_.cluster_bits] == 1;
}

bool CheckRepair::l1_is_alone() const {
  const std::uint64_t at = checker_.header().l1_at.value;
  const std::uint64_t clusters = geometry_.clusters_for(checker_.active_l1().size() * entry_bytes);
  for (std::uint64_t i = 0; i < clusters; ++i)
    if (!is_only_user(at + (i << geometry_.cluster_bits))) return false;
  return true;
}

// The active tables alone have flags that matter.
Task<> CheckRepair::fix_flags() {
  AlignedBuffer table(geometry_.cluster_size());
  for (const TableUse& use : checker_.tables()) {
    if (use.active < 0 || !checker_.is_table_only(use.at.value)) continue;
    co_await checker_.go_on();
    const Range place{use.at.value, table.size()};
    const Range written = co_await checker_.next_written(place);
    if (written.empty()) continue;
    co_await checker_.read(place.offset, table.bytes());
    if (fix_entries(table.bytes())) co_await file_.write(use.at.value, Buffers(table.bytes()));
  }
  std::vector<std::uint64_t> l1 = checker_.active_l1();
  if (!fix_l1(l1) || !l1_is_alone()) co_return;
  for (std::uint64_t& raw : l1) store_be(reinterpret_cast<std::byte*>(&raw), std::uint64_t{raw});
  co_await file_.write(checker_.header().l1_at.value, Buffers(std::as_writable_bytes(std::span(l1))));
}

bool CheckRepair::fix_l1(std::vector<std::uint64_t>& l1) const {
  bool changed = false;
  for (std::uint64_t& raw : l1) {
    const std::uint64_t at = raw & CheckEntry::offset_mask;
    if (raw == 0 || !checker_.is_table_only(at)) continue;
    const std::uint64_t now = is_only_user(at) ? raw | CheckEntry::copied_flag : raw & ~CheckEntry::copied_flag;
    changed = changed || now != raw;
    raw = now;
  }
  return changed;
}

bool CheckRepair::fix_entries(MutableBytes table) {
  const std::uint64_t width = checker_.extended() ? 16 : 8;
  bool changed = false;
  for (std::uint64_t i = 0; i < table.size(); i += width) {
    const CheckEntry was(load_be<std::uint64_t>(table.data() + i)), now = fixed(was);
    if (now == was) continue;
    store_be(table.data() + i, now.word());
    changed = true;
  }
  return changed;
}

CheckEntry CheckRepair::fixed(CheckEntry entry) {
  if (entry.compressed()) return entry.with_copied(false);
  if (checker_.external_data() || !entry.has_cluster()) return entry;
  const std::uint64_t at = entry.host().value;
  // Zeroes whose place cannot be need none.
  if (!geometry_.cluster_aligned(at)) return entry.zero() && !checker_.extended() ? CheckEntry(CheckEntry::zero_flag) : entry;
  if (!checker_.placed_well(at)) return entry;
  return entry.with_copied(is_only_user(at));
}

Task<> write_incompatible(Edge& file, std::uint64_t features) {
  std::byte field[8];
  store_be(field, features);
  co_await file.write(HeaderField::incompatible, Buffers(MutableBytes(field)));
  co_await file.flush();
}

}  // namespace tidemark::qcow2
