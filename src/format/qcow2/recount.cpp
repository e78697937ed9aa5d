#include "format/qcow2/recount.hpp"

#include "format/qcow2/snapshot_table.hpp"

namespace tidemark::qcow2 {

Task<> Recount::run() {
  const Geometry& g = file_.geometry();
  for (std::uint64_t block = 0; block < refcounts_.table().size(); ++block) {
    co_await refcounts_.clear_block(block);
    if (refcounts_.blocks().pressed()) co_await committer_.write_back();
  }
  const Range first_cluster{0, g.cluster_size()};
  co_await use(first_cluster, "header");
  const Range table{header_.refcount_table_at.value, std::uint64_t{header_.refcount_table_clusters} << g.cluster_bits};
  co_await use(table, "refcount table");
  // Raising a count may add a block, which counts itself: only those that were there are used here.
  const std::vector<std::uint64_t> blocks = refcounts_.table().entries();
  for (const std::uint64_t entry : blocks) {
    const Range block{align_down(entry, 512), g.cluster_size()};
    if (block.offset != 0) co_await use(block, "refcount block");
  }
  co_await use_tree(header_.l1_at, header_.l1_entries);
  co_await use_snapshots();
  if (header_.has_bitmaps && header_.has(Autoclear::bitmaps)) co_await use_bitmaps();
}

Task<> Recount::use(Range host, const char* what) {
  const Geometry& g = file_.geometry();
  if (host.empty()) co_return;
  if (!fits(host.offset, host.length, align_up(file_.size(), g.cluster_size())))
    co_await file_.corrupt(std::string(what) + " at " + std::to_string(host.offset) + " lies beyond the end of the file");
  const Range clusters = host.widened(g.cluster_size());
  const HostRun run{g.cluster_of({clusters.offset}), clusters.length >> g.cluster_bits};
  co_await refcounts_.raise(run);
  if (refcounts_.blocks().pressed()) co_await committer_.write_back();
}

Task<std::vector<std::uint64_t>> Recount::read_table(HostOffset at, std::uint64_t entries, const char* what) {
  const Range bytes{at.value, entries * entry_bytes};
  co_await use(bytes, what);
  AlignedBuffer raw(bytes.length);
  co_await file_.read(at, raw.bytes());
  std::vector<std::uint64_t> table(entries);
  for (std::uint64_t i = 0; i < entries; ++i) table[i] = load_be<std::uint64_t>(raw.data() + i * entry_bytes);
  co_return table;
}

Task<> Recount::use_tree(HostOffset l1_at, std::uint64_t l1_entries) {
  const std::vector<std::uint64_t> l1 = co_await read_table(l1_at, l1_entries, "L1 table");
  for (const std::uint64_t entry : l1) {
    const HostOffset at{entry & L2Entry::offset_mask};
    if (at.value != 0) co_await use_l2_table(at);
  }
}

Task<> Recount::use_l2_table(HostOffset at) {
  const Geometry& g = file_.geometry();
  if (!g.cluster_aligned(at.value)) co_await file_.corrupt("an L2 table lies at " + std::to_string(at.value));
  const std::vector<std::uint64_t> words = co_await read_table(at, g.cluster_size() / entry_bytes, "L2 table");
  for (std::uint64_t i = 0; i < words.size() && !g.external_data; i += g.l2_entry_words()) {
    const L2Entry entry = L2Entry::decode(g, words[i], g.extended_l2 ? words[i + 1] : 0);
    if (entry.has_cluster() && !g.cluster_aligned(entry.host().value))
      co_await file_.corrupt("a cluster lies at " + std::to_string(entry.host().value));
    const Range data = g.bytes_of(clusters_of(entry, g));
    co_await use(data, "guest data");
  }
}

Task<> Recount::use_snapshots() {
  const SnapshotTable table = co_await read_snapshot_table(file_, header_);
  const Range bytes{header_.snapshots_at.value, stored_bytes(table)};
  co_await use(bytes, "snapshot table");
  for (const SnapshotEntry& entry : table) co_await use_tree(entry.l1_at, entry.l1_entries);
}

// An entry begins with table offset u64, table entries u32, and says how long it is at 18 (name, u16) and 20 (extra
// data, u32).
Task<> Recount::use_bitmaps() {
  constexpr std::size_t entry_fixed = 24, directory_bytes_max = 128 * MiB;
  const Range directory{header_.bitmap_directory_at.value, header_.bitmap_directory_bytes};
  if (directory.length > directory_bytes_max) co_await file_.corrupt("its bitmap directory is too large");
  co_await use(directory, "bitmap directory");
  AlignedBuffer bytes(directory.length);
  const HostOffset at{directory.offset};
  co_await file_.read(at, bytes.bytes());
  std::size_t next = 0;
  for (std::uint32_t i = 0; i < header_.bitmaps; ++i) {
    if (!fits(next, entry_fixed, bytes.size())) co_await file_.corrupt("its bitmap directory is cut short");
    const std::byte* const entry = bytes.data() + next;
    const HostOffset table_at{load_be<std::uint64_t>(entry)};
    co_await use_bitmap(table_at, load_be<std::uint32_t>(entry + 8));
    next += align_up(entry_fixed + load_be<std::uint16_t>(entry + 18) + std::size_t{load_be<std::uint32_t>(entry + 20)}, 8);
  }
}

Task<> Recount::use_bitmap(HostOffset table_at, std::uint64_t entries) {
  const Geometry& g = file_.geometry();
  const std::vector<std::uint64_t> table = co_await read_table(table_at, entries, "bitmap table");
  for (const std::uint64_t entry : table) {
    const Range data{entry & L2Entry::offset_mask, g.cluster_size()};
    if (data.offset != 0) co_await use(data, "bitmap data");
  }
}

}  // namespace tidemark::qcow2
