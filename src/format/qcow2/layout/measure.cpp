#include "format/qcow2/layout/measure.hpp"

#include "base/units.hpp"

namespace tidemark::qcow2 {
namespace {

// Table and blocks that count so many clusters, and themselves.
std::uint64_t refcount_clusters(std::uint64_t clusters, std::uint64_t cluster_size, std::uint32_t refcount_bits) {
  const std::uint64_t per_block = cluster_size * 8 / refcount_bits;
  std::uint64_t blocks = 0, table = 0;
  for (;;) {
    const std::uint64_t more_blocks = div_up(clusters + table + blocks, per_block);
    const std::uint64_t more_table = div_up(more_blocks * 8, cluster_size);
    if (more_blocks == blocks && more_table == table) return blocks + table;
    blocks = more_blocks;
    table = more_table;
  }
}

}  // namespace

Measured measure(std::uint64_t size, std::uint64_t data, std::uint64_t cluster_size, std::uint32_t refcount_bits,
                 std::uint64_t l2_entry) {
  const std::uint64_t guest = div_up(size, cluster_size);
  const std::uint64_t l2_tables = div_up(guest, cluster_size / l2_entry);
  const std::uint64_t l1 = div_up(l2_tables * 8, cluster_size);
  const std::uint64_t tables = 1 + l2_tables + l1;
  const std::uint64_t metadata = tables + refcount_clusters(tables + guest, cluster_size, refcount_bits);
  return {metadata * cluster_size + data, (metadata + guest) * cluster_size};
}

}  // namespace tidemark::qcow2
