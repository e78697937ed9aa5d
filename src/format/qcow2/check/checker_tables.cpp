// L1 and L2 tables.
#include <algorithm>

#include "format/qcow2/check/checker.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t l1_reserved = 0x7f000000000001ff;
constexpr std::uint64_t l2_reserved = 0x3f000000000001fe;
constexpr std::uint64_t read_max = 1 * MiB;              // of L2 tables that lie side by side

}  // namespace

// An active table is kept: its entries have flags of their own.
Task<> Checker::count_l1(HostOffset at, std::uint64_t entries, std::uint64_t times, bool active) {
  const Range all{at.value, entries * entry_bytes};
  if (!count(all.offset, all.length, times)) co_return;
  if (!alone(all)) {
    corrupt("ERROR the L1 table at {x} overlaps another table", at.value);
    co_return;
  }
  if (active) active_l1_.resize(entries);
  for (Range left = all; !left.empty();) {
    const Range piece = co_await next_written(left);
    const HostOffset from{piece.offset};
    const std::vector<std::uint64_t> table = co_await read_table(from, piece.length / entry_bytes);
    const std::uint64_t first = (piece.offset - all.offset) / entry_bytes;
    for (std::uint64_t i = 0; i < table.size(); ++i)
      if (table[i] != 0) count_l1_entry(table[i], times, active ? static_cast<std::int64_t>(first + i) : -1);
    if (active) std::copy(table.begin(), table.end(), active_l1_.begin() + static_cast<std::ptrdiff_t>(first));
    left = {piece.end(), left.end() - piece.end()};
  }
  if (tables_.size() > 2 * merged_ + 65536) merge_tables();
}

void Checker::count_l1_entry(std::uint64_t raw, std::uint64_t times, std::int64_t active) {
  const Geometry& g = geometry();
  const std::uint64_t place = raw & CheckEntry::offset_mask;
  if (raw & l1_reserved) corrupt("ERROR found L1 entry with reserved bits set: {x}", raw);
  if (!g.cluster_aligned(place)) return corrupt("ERROR l2_offset={x}: Table is not cluster aligned; L1 entry corrupted", place);
  if (!count(place, g.cluster_size(), times)) return;
  if (active >= 0) check_copied(Level::l1, raw, {place});
  tables_.push_back({{place}, times, active});
}

// The entry says that it is the only one to use a cluster, and the refcount something else; or the other way round.
void Checker::check_copied(Level level, std::uint64_t raw, HostOffset at) {
  static constexpr const char* words[2][2] = {
      {"ERROR OFLAG_COPIED L2 cluster: l1_entry={x} refcount is not 1", "ERROR OFLAG_COPIED L2 cluster: l1_entry={x} refcount=1"},
      {"ERROR OFLAG_COPIED data cluster: l2_entry={x} refcount is not 1",
       "ERROR OFLAG_COPIED data cluster: l2_entry={x} refcount=1"}};
  const bool one = counts_.is_one(geometry().cluster_of(at).index), flag = raw & CheckEntry::copied_flag;
  if (one != flag) miscounted(words[level == Level::l2][one], raw);
}

void Checker::merge_tables() {
  auto before = [](const TableUse& a, const TableUse& b) { return a.at < b.at; };
  std::stable_sort(tables_.begin(), tables_.end(), before);
  std::size_t kept = 0;
  for (std::size_t i = 1; i < tables_.size(); ++i) {
    if (tables_[i].at == tables_[kept].at) {
      tables_[kept].times += tables_[i].times;
      tables_[kept].active = std::max(tables_[kept].active, tables_[i].active);
    } else {
      tables_[++kept] = tables_[i];
    }
  }
  if (!tables_.empty()) tables_.resize(kept + 1);
  merged_ = tables_.size();
}

bool Checker::is_table_only(std::uint64_t offset) const noexcept {
  if (!placed_well(offset)) return false;
  auto before = [](const TableUse& table, std::uint64_t at) { return table.at.value < at; };
  const auto found = std::lower_bound(tables_.begin(), tables_.end(), offset, before);
  return found != tables_.end() && found->at.value == offset && counts_[offset >> geometry().cluster_bits] == found->times;
}

Task<> Checker::count_tables() {
  merge_tables();
  const std::uint64_t size = geometry().cluster_size(), at_once = std::max<std::uint64_t>(1, read_max / size);
  total_ = std::max<std::uint64_t>(1, tables_.size() * size);
  AlignedBuffer buffer(at_once * size);
  for (std::size_t i = 0; i < tables_.size();) {
    co_await go_on();
    std::size_t n = 1;
    while (n < at_once && i + n < tables_.size() && tables_[i + n].at.value == tables_[i].at.value + n * size) ++n;
    const Range place{tables_[i].at.value, n * size};
    const Range written = co_await next_written(place);        // what is not has no entries
    if (!written.empty()) {
      co_await read(place.offset, buffer.bytes().first(place.length));
      for (std::size_t k = 0; k < n; ++k) count_table(tables_[i + k], buffer.data() + k * size);
    }
    i += n;
    advance(n * size);
  }
}

void Checker::count_table(const TableUse& table, const std::byte* entries) {
  const std::uint64_t width = extended() ? 16 : 8, n = geometry().cluster_size() / width;
  contiguous_ = 0;
  for (std::uint64_t i = 0; i < n; ++i) {
    const CheckEntry entry(load_be<std::uint64_t>(entries + i * width));
    const std::uint64_t bitmap = extended() ? load_be<std::uint64_t>(entries + i * width + 8) : 0;
    if (entry.word() != 0 || bitmap != 0) count_entry(table, i, entry, bitmap);
  }
}

void Checker::count_entry(const TableUse& table, std::uint64_t i, CheckEntry entry, std::uint64_t bitmap) {
  if (entry.compressed()) return count_compressed(table, i, entry, bitmap);
  if (entry.word() & l2_reserved) corrupt("ERROR found l2 entry with reserved bits set: {x}", entry.word());
  if (entry.zero() && (extended() || geometry().version < 3))
    corrupt("ERROR found l2 entry with reserved bits set: {x}", entry.word());
  // A cluster of an external file may lie at its start.
  const bool placed = entry.host().value != 0 || (external_data() && entry.copied());
  if (!placed) {
    if (bitmap & 0xffffffff)
      corrupt("ERROR: Unallocated cluster has non-zero subcluster allocation map: {x}", bitmap);
    return;
  }
  if ((bitmap >> 32) & bitmap)
    corrupt("ERROR offset={x}: Allocated cluster has corrupted subcluster allocation bitmap", entry.host().value);
  count_standard(table, entry);
}

void Checker::count_compressed(const TableUse& table, std::uint64_t i, CheckEntry entry, std::uint64_t bitmap) {
  const Range place = entry.compressed_range(geometry());
  if (entry.copied())
    corrupt("ERROR: coffset=0x{x}: copied flag must never be set for compressed clusters", place.offset);
  if (external_data()) corrupt("ERROR compressed cluster {} with data file, entry=0x{x}", i, entry.word());
  if (bitmap != 0)
    corrupt("ERROR compressed cluster {} with non-zero subcluster allocation bitmap, entry=0x{x}", i, entry.word());
  if (external_data() || bitmap != 0) return;
  count(place.offset, place.length, table.times);
  if (table.active < 0) return;
  ++report_.allocated_clusters;
  ++report_.compressed_clusters;
  ++report_.fragmented_clusters;                         // by its nature
}

void Checker::count_standard(const TableUse& table, CheckEntry entry) {
  const Geometry& g = geometry();
  const HostOffset at = entry.host();
  if (table.active >= 0) {
    ++report_.allocated_clusters;
    if (contiguous_ != 0 && at.value != contiguous_) ++report_.fragmented_clusters;
    contiguous_ = at.value + g.cluster_size();
  }
  if (!g.cluster_aligned(at.value)) {
    corrupt(entry.zero() ? "ERROR offset={x}: Preallocated zero cluster is not properly aligned; L2 entry corrupted."
                         : "ERROR offset={x}: Data cluster is not properly aligned; L2 entry corrupted.", at.value);
    return;
  }
  if (external_data()) return;                           // nobody counts the clusters of that file
  if (!count(at.value, g.cluster_size(), table.times)) return;
  if (table.active >= 0) check_copied(Level::l2, entry.word(), at);
}

}  // namespace tidemark::qcow2
