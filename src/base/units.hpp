// Sizes, ranges and arithmetic on them that cannot overflow silently.
//
// Every offset and length in Tidemark is in bytes, 64 bits, unless a name says otherwise.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "base/assert.hpp"

namespace tidemark {

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;
inline constexpr std::uint64_t GiB = 1024 * MiB;
inline constexpr std::uint64_t TiB = 1024 * GiB;
inline constexpr std::uint64_t EiB = 1024 * 1024 * TiB;

// No disk, file or offset is larger: the kernel's loff_t is signed.
inline constexpr std::uint64_t max_disk_size = 8 * EiB - 1;

constexpr bool is_power_of_two(std::uint64_t n) noexcept { return std::has_single_bit(n); }

constexpr bool is_aligned(std::uint64_t n, std::uint64_t power) noexcept {
  return (n & (power - 1)) == 0;
}

constexpr std::uint64_t align_down(std::uint64_t n, std::uint64_t power) noexcept {
  return n & ~(power - 1);
}

constexpr std::uint64_t align_up(std::uint64_t n, std::uint64_t power) noexcept {
  return align_down(n + (power - 1), power);
}

constexpr std::uint64_t div_up(std::uint64_t n, std::uint64_t by) noexcept {
  return n / by + (n % by != 0);
}

constexpr unsigned log2_of(std::uint64_t power) noexcept {
  return static_cast<unsigned>(std::countr_zero(power));
}

// True, and `sum` set, when a + b fits.
[[nodiscard]] constexpr bool checked_add(std::uint64_t a, std::uint64_t b, std::uint64_t& sum) noexcept {
  return !__builtin_add_overflow(a, b, &sum);
}

[[nodiscard]] constexpr bool checked_mul(std::uint64_t a, std::uint64_t b, std::uint64_t& product) noexcept {
  return !__builtin_mul_overflow(a, b, &product);
}

// Half-open [offset, offset + length).  Users keep end() from overflowing.
struct Range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  constexpr std::uint64_t end() const noexcept { return offset + length; }
  constexpr bool empty() const noexcept { return length == 0; }
  constexpr bool contains(std::uint64_t at) const noexcept { return at >= offset && at - offset < length; }
  constexpr bool overlaps(Range o) const noexcept { return offset < o.end() && o.offset < end(); }
  constexpr Range intersect(Range o) const noexcept {
    const std::uint64_t from = offset > o.offset ? offset : o.offset;
    const std::uint64_t to = end() < o.end() ? end() : o.end();
    return from < to ? Range{from, to - from} : Range{from, 0};
  }
  // The smallest range of whole `power`-sized units that covers this one.
  constexpr Range widened(std::uint64_t power) const noexcept {
    const std::uint64_t from = align_down(offset, power);
    return {from, align_up(end(), power) - from};
  }
  // The whole units inside this range; possibly empty.
  constexpr Range narrowed(std::uint64_t power) const noexcept {
    const std::uint64_t from = align_up(offset, power);
    const std::uint64_t to = align_down(end(), power);
    return from < to ? Range{from, to - from} : Range{from, 0};
  }
  friend constexpr bool operator==(Range, Range) noexcept = default;
};

// True when [offset, offset + length) lies inside [0, size).
constexpr bool fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) noexcept {
  return length <= size && offset <= size - length;
}

}  // namespace tidemark
