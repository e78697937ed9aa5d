// The words of qcow2 inside the driver: places in the image file, the shape of its tables, and what
// an L2 entry says.  Guest offsets are plain bytes, as everywhere above; places in the file are types
// of their own, so that the two cannot be mixed up.
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

inline constexpr std::uint64_t entry_bytes = 8;          // of L1, L2 and refcount tables

// What the header fixes for the image's life.
struct Geometry {
  std::uint32_t version = 3;
  std::uint32_t cluster_bits = 16;
  std::uint32_t refcount_order = 4;

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

  // An L2 table is one cluster; it is cached in slices, so that a change costs one small write.
  constexpr std::uint64_t slice_size() const noexcept { return cluster_size() < 4096 ? cluster_size() : 4096; }
  constexpr std::uint64_t slice_entries() const noexcept { return slice_size() / entry_bytes; }
  constexpr std::uint64_t l2_entries() const noexcept { return cluster_size() / entry_bytes; }
  // Guest bytes that one slice, and one L2 table, describe.
  constexpr std::uint64_t slice_span() const noexcept { return slice_entries() << cluster_bits; }
  constexpr std::uint64_t l2_span() const noexcept { return l2_entries() << cluster_bits; }

  constexpr std::uint32_t refcount_bits() const noexcept { return 1u << refcount_order; }
  constexpr std::uint64_t refcount_max() const noexcept {
    return refcount_order == 6 ? ~std::uint64_t{0} : (std::uint64_t{1} << refcount_bits()) - 1;
  }
  // Clusters that one refcount block, and one cached slice of it, count.
  constexpr std::uint64_t block_entries() const noexcept { return cluster_size() * 8 >> refcount_order; }
  constexpr std::uint64_t block_slice_entries() const noexcept { return slice_size() * 8 >> refcount_order; }
};

// No image, guest or host, is larger than what 56 bits of offset reach.
inline constexpr std::uint64_t offset_limit = std::uint64_t{1} << 56;

// One standard or compressed L2 entry.
class L2Entry {
 public:
  static constexpr std::uint64_t copied_flag = std::uint64_t{1} << 63;
  static constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 62;
  static constexpr std::uint64_t zero_flag = 1;
  static constexpr std::uint64_t offset_mask = 0x00fffffffffffe00;

  constexpr L2Entry() = default;
  constexpr explicit L2Entry(std::uint64_t raw) noexcept : raw_(raw) {}
  static constexpr L2Entry of_data(HostOffset at) noexcept { return L2Entry(at.value | copied_flag); }
  static constexpr L2Entry of_zeroes() noexcept { return L2Entry(zero_flag); }

  constexpr std::uint64_t raw() const noexcept { return raw_; }
  constexpr bool compressed() const noexcept { return raw_ & compressed_flag; }
  constexpr bool zero() const noexcept { return !compressed() && (raw_ & zero_flag); }
  constexpr HostOffset host() const noexcept { return {raw_ & offset_mask}; }
  constexpr bool has_cluster() const noexcept { return !compressed() && host().value != 0; }
  // Its cluster is nobody else's: may be written in place.
  constexpr bool owned() const noexcept { return has_cluster() && (raw_ & copied_flag); }
  constexpr L2Entry with_zero() const noexcept { return L2Entry(raw_ | zero_flag); }
  constexpr L2Entry without_zero() const noexcept { return L2Entry(raw_ & ~zero_flag); }
  friend constexpr bool operator==(L2Entry, L2Entry) noexcept = default;

 private:
  std::uint64_t raw_ = 0;
};

// Where a compressed cluster's bytes may lie: from `at`, at most to the end of the last sector.
struct CompressedPlace {
  HostOffset at;
  std::uint64_t length = 0;

  static constexpr std::uint64_t sector = 512;
  static constexpr unsigned offset_bits(const Geometry& g) noexcept { return 62 - (g.cluster_bits - 8); }
  static constexpr CompressedPlace of(L2Entry entry, const Geometry& g) noexcept {
    const unsigned bits = offset_bits(g);
    const std::uint64_t at = entry.raw() & ((std::uint64_t{1} << bits) - 1) & (offset_limit - 1);
    const std::uint64_t more = (entry.raw() & (L2Entry::compressed_flag - 1)) >> bits;
    return {{at}, (more + 1) * sector - at % sector};
  }
  // The entry of `length` bytes of compressed data.
  constexpr L2Entry entry(const Geometry& g) const noexcept {
    const std::uint64_t more = (at.value + length - 1) / sector - at.value / sector;
    return L2Entry(L2Entry::compressed_flag | more << offset_bits(g) | at.value);
  }
  constexpr HostRun clusters(const Geometry& g) const noexcept {
    const HostCluster first = g.cluster_of(at);
    return {first, g.cluster_of(at + (length - 1)).index - first.index + 1};
  }
};

}  // namespace tidemark::qcow2
