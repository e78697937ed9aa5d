// The words of qcow2 inside the driver: places in the image file and the shape of its tables.  Guest
// offsets are plain bytes, as everywhere above; places in the file are types of their own, so that the two
// cannot be mixed up.
//
// The format is specified in QEMU's docs/interop/qcow2.rst; the names here are that document's.
#pragma once

#include <compare>
#include <cstdint>

#include "base/units.hpp"

namespace tidemark::qcow2 {

// A byte of the image file.
struct HostOffset {
  std::uint64_t value = 0;
  friend constexpr auto operator<=>(HostOffset, HostOffset) noexcept = default;
  friend constexpr HostOffset operator+(HostOffset at, std::uint64_t bytes) noexcept {
    return {at.value + bytes};
  }
};

// A cluster of the image file, counted from its start.
struct HostCluster {
  std::uint64_t index = 0;
  friend constexpr auto operator<=>(HostCluster, HostCluster) noexcept = default;
};

struct HostRun {
  HostCluster first;
  std::uint64_t count = 0;
  friend constexpr bool operator==(HostRun, HostRun) noexcept = default;
};

inline constexpr std::uint64_t entry_bytes = 8;          // of L1 and refcount tables, and a word of an L2 entry

// What the header fixes for the image's life, and how its tables are cached.
struct Geometry {
  std::uint32_t version = 3;
  std::uint32_t cluster_bits = 16;
  std::uint32_t refcount_order = 4;
  bool extended_l2 = false;            // clusters have subclusters, each with a state of its own
  bool external_data = false;          // the guest's clusters lie in another file, where the guest sees them
  std::uint64_t l2_slice_max = 4096;   // an L2 table is cached in slices, so that a change costs one small write

  constexpr std::uint64_t cluster_size() const noexcept { return std::uint64_t{1} << cluster_bits; }
  constexpr std::uint64_t in_cluster(std::uint64_t offset) const noexcept {
    return offset & (cluster_size() - 1);
  }
  constexpr bool cluster_aligned(std::uint64_t offset) const noexcept { return in_cluster(offset) == 0; }
  constexpr HostCluster cluster_of(HostOffset at) const noexcept { return {at.value >> cluster_bits}; }
  constexpr HostOffset offset_of(HostCluster c) const noexcept { return {c.index << cluster_bits}; }
  constexpr Range bytes_of(HostRun run) const noexcept {
    return {run.first.index << cluster_bits, run.count << cluster_bits};
  }
  constexpr std::uint64_t clusters_for(std::uint64_t bytes) const noexcept {
    return div_up(bytes, cluster_size());
  }

  // A cluster without subclusters is one subcluster.
  constexpr std::uint32_t subclusters() const noexcept { return extended_l2 ? 32 : 1; }
  constexpr std::uint32_t subcluster_bits() const noexcept { return extended_l2 ? cluster_bits - 5 : cluster_bits; }
  constexpr std::uint64_t subcluster_size() const noexcept { return std::uint64_t{1} << subcluster_bits(); }
  constexpr std::uint32_t subcluster_of(std::uint64_t offset) const noexcept {
    return static_cast<std::uint32_t>(in_cluster(offset) >> subcluster_bits());
  }

  // An L2 table is one cluster.
  constexpr std::uint64_t l2_entry_words() const noexcept { return extended_l2 ? 2 : 1; }
  constexpr std::uint64_t slice_size() const noexcept { return cluster_size() < l2_slice_max ? cluster_size() : l2_slice_max; }
  constexpr std::uint64_t slice_entries() const noexcept { return slice_size() / (entry_bytes * l2_entry_words()); }
  constexpr std::uint64_t l2_entries() const noexcept { return cluster_size() / (entry_bytes * l2_entry_words()); }
  // Guest bytes that one slice, and one L2 table, describe.
  constexpr std::uint64_t slice_span() const noexcept { return slice_entries() << cluster_bits; }
  constexpr std::uint64_t l2_span() const noexcept { return l2_entries() << cluster_bits; }

  constexpr std::uint32_t refcount_bits() const noexcept { return 1u << refcount_order; }
  constexpr std::uint64_t refcount_max() const noexcept {
    return refcount_order == 6 ? ~std::uint64_t{0} : (std::uint64_t{1} << refcount_bits()) - 1;
  }
  // Clusters that one refcount block, and one cached slice of it, count.
  constexpr std::uint64_t block_slice_size() const noexcept { return cluster_size() < 4096 ? cluster_size() : 4096; }
  constexpr std::uint64_t block_entries() const noexcept { return cluster_size() * 8 >> refcount_order; }
  constexpr std::uint64_t block_slice_entries() const noexcept { return block_slice_size() * 8 >> refcount_order; }
};

// No image, guest or host, is larger than what 56 bits of offset reach.
inline constexpr std::uint64_t offset_limit = std::uint64_t{1} << 56;

}  // namespace tidemark::qcow2
