// What an L2 entry says, the same for all kinds of images: a cluster is one subcluster where the image has no
// extended entries, and `allocated` and `zeroes` have one bit for each subcluster.
//
// Invariant: an entry that was decoded and is well_formed() says of each subcluster one thing.
#pragma once

#include <bit>

#include "block/types.hpp"
#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

using Subclusters = std::uint32_t;                       // a set; bit i is subcluster i

// Those from `first` on, before `end`.
constexpr Subclusters subcluster_range(std::uint32_t first, std::uint32_t end) noexcept {
  return static_cast<Subclusters>((std::uint64_t{1} << end) - (std::uint64_t{1} << first));
}
constexpr Subclusters all_subclusters(const Geometry& g) noexcept { return subcluster_range(0, g.subclusters()); }

class L2Entry {
 public:
  static constexpr std::uint64_t copied_flag = std::uint64_t{1} << 63;
  static constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 62;
  static constexpr std::uint64_t zero_flag = 1;
  static constexpr std::uint64_t offset_mask = 0x00fffffffffffe00;

  constexpr L2Entry() = default;

  // `bitmap`: the second word of an extended entry.
  static constexpr L2Entry decode(const Geometry& g, std::uint64_t word, std::uint64_t bitmap) noexcept {
    L2Entry e;
    e.word_ = word;
    if (word & compressed_flag) return e;
    e.word_ &= copied_flag | offset_mask;
    // A data file's first cluster lies at 0.
    e.placed_ = (word & offset_mask) != 0 || (g.external_data && (word & copied_flag));
    if (g.extended_l2) {
      e.allocated_ = static_cast<Subclusters>(bitmap);
      e.zeroes_ = static_cast<Subclusters>(bitmap >> 32);
    } else if (word & zero_flag) {
      e.zeroes_ = 1;
    } else if (e.placed_) {
      e.allocated_ = 1;
    }
    return e;
  }
  static constexpr L2Entry of_data(HostOffset at, Subclusters allocated, Subclusters zeroes = 0) noexcept {
    L2Entry e;
    e.word_ = at.value | copied_flag;
    e.placed_ = true;
    e.allocated_ = allocated;
    e.zeroes_ = zeroes;
    return e;
  }
  static constexpr L2Entry of_zeroes(Subclusters zeroes) noexcept {
    L2Entry e;
    e.zeroes_ = zeroes;
    return e;
  }
  static constexpr L2Entry of_compressed(std::uint64_t word) noexcept {
    L2Entry e;
    e.word_ = word | compressed_flag;
    return e;
  }

  constexpr std::uint64_t word(const Geometry& g) const noexcept { return word_ | (!g.extended_l2 && zeroes_ ? zero_flag : 0); }
  constexpr std::uint64_t bitmap() const noexcept { return std::uint64_t{zeroes_} << 32 | allocated_; }

  constexpr bool compressed() const noexcept { return word_ & compressed_flag; }
  constexpr std::uint64_t compressed_word() const noexcept { return word_; }
  constexpr HostOffset host() const noexcept { return {word_ & offset_mask}; }
  constexpr bool has_cluster() const noexcept { return placed_; }
  // Its cluster is nobody else's: may be written in place.
  constexpr bool owned() const noexcept { return placed_ && (word_ & copied_flag); }
  constexpr Subclusters allocated() const noexcept { return allocated_; }
  constexpr Subclusters zeroes() const noexcept { return zeroes_; }
  constexpr bool well_formed() const noexcept { return (allocated_ & zeroes_) == 0 && (placed_ || allocated_ == 0); }

  constexpr Mapping mapping(std::uint32_t subcluster) const noexcept {
    if (compressed()) return Mapping::compressed;
    if (allocated_ >> subcluster & 1) return Mapping::data;
    if (zeroes_ >> subcluster & 1) return placed_ ? Mapping::zero_allocated : Mapping::zero;
    return Mapping::below;
  }
  // The first subcluster behind this one that is of another kind, or how many there are.
  constexpr std::uint32_t alike_until(std::uint32_t subcluster, const Geometry& g) const noexcept {
    if (compressed() || !g.extended_l2) return g.subclusters();
    const bool data = allocated_ >> subcluster & 1, zero = zeroes_ >> subcluster & 1;
    const Subclusters alike = data ? allocated_ : zero ? zeroes_ : ~(allocated_ | zeroes_);
    return subcluster + static_cast<std::uint32_t>(std::countr_one(alike >> subcluster));
  }

  // These read as zeroes from now on; the cluster stays.
  constexpr L2Entry with_zeroes(Subclusters which) const noexcept {
    L2Entry e = *this;
    e.allocated_ &= ~which;
    e.zeroes_ |= which;
    return e;
  }
  constexpr L2Entry without_cluster() const noexcept { return of_zeroes(zeroes_); }
  constexpr L2Entry with_copied(bool copied) const noexcept {
    L2Entry e = *this;
    e.word_ = (word_ & ~copied_flag) | (copied && placed_ ? copied_flag : 0);
    return e;
  }
  friend constexpr bool operator==(const L2Entry&, const L2Entry&) noexcept = default;

 private:
  std::uint64_t word_ = 0;               // without the zero flag, unless compressed
  Subclusters allocated_ = 0, zeroes_ = 0;
  bool placed_ = false;
};

// Where a compressed cluster's bytes may lie: from `at`, at most to the end of the last sector.
struct CompressedPlace {
  HostOffset at;
  std::uint64_t length = 0;

  static constexpr std::uint64_t sector = 512;
  static constexpr unsigned offset_bits(const Geometry& g) noexcept { return 62 - (g.cluster_bits - 8); }
  static constexpr CompressedPlace of(L2Entry entry, const Geometry& g) noexcept {
    const std::uint64_t word = entry.compressed_word();
    const unsigned bits = offset_bits(g);
    const std::uint64_t at = word & ((std::uint64_t{1} << bits) - 1) & (offset_limit - 1);
    const std::uint64_t more = (word & (L2Entry::compressed_flag - 1)) >> bits;
    return {{at}, (more + 1) * sector - at % sector};
  }
  // The entry of `length` bytes of compressed data.
  constexpr L2Entry entry(const Geometry& g) const noexcept {
    const std::uint64_t more = (at.value + length - 1) / sector - at.value / sector;
    return L2Entry::of_compressed(more << offset_bits(g) | at.value);
  }
  constexpr HostRun clusters(const Geometry& g) const noexcept {
    const HostCluster first = g.cluster_of(at);
    return {first, g.cluster_of(at + (length - 1)).index - first.index + 1};
  }
};

// What the entry's data lies in; no cluster where it has none.
constexpr HostRun clusters_of(L2Entry entry, const Geometry& g) noexcept {
  if (entry.compressed()) return CompressedPlace::of(entry, g).clusters(g);
  return {g.cluster_of(entry.host()), entry.has_cluster() ? 1u : 0u};
}

}  // namespace tidemark::qcow2
