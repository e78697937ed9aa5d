// CheckEntry: the first word of an L2 entry as it stands in the file, right or wrong.
#pragma once

#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

class CheckEntry {
 public:
  static constexpr std::uint64_t copied_flag = std::uint64_t{1} << 63, compressed_flag = std::uint64_t{1} << 62;
  static constexpr std::uint64_t zero_flag = 1, offset_mask = 0x00fffffffffffe00;

  constexpr explicit CheckEntry(std::uint64_t word) noexcept : word_(word) {}

  constexpr std::uint64_t word() const noexcept { return word_; }
  constexpr bool copied() const noexcept { return word_ & copied_flag; }
  constexpr bool compressed() const noexcept { return word_ & compressed_flag; }
  constexpr bool zero() const noexcept { return !compressed() && (word_ & zero_flag); }
  constexpr HostOffset host() const noexcept { return {word_ & offset_mask}; }
  constexpr bool has_cluster() const noexcept { return !compressed() && host().value != 0; }
  constexpr CheckEntry with_copied(bool copied) const noexcept {
    return CheckEntry(copied ? word_ | copied_flag : word_ & ~copied_flag);
  }

  // The sectors that compressed data may lie in.
  constexpr Range compressed_range(const Geometry& g) const noexcept {
    constexpr std::uint64_t sector = 512;
    const unsigned bits = 62 - (g.cluster_bits - 8);
    const std::uint64_t at = word_ & ((std::uint64_t{1} << bits) - 1) & (offset_limit - 1);
    const std::uint64_t more = (word_ & (compressed_flag - 1)) >> bits;
    return {at, (more + 1) * sector - at % sector};
  }
  friend constexpr bool operator==(CheckEntry, CheckEntry) noexcept = default;

 private:
  std::uint64_t word_;
};

}  // namespace tidemark::qcow2
