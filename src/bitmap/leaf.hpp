// Leaf: 4 KiB of bits and how many of them are set, the unit in which a bitmap takes memory.
//
// Invariant: `count` is the number of bits set in `words`; bits beyond the bitmap's end are clear.
#pragma once

#include <bit>

#include "bitmap/words.hpp"

namespace tidemark {

struct Leaf {
  static constexpr unsigned bits_log2 = 15;
  static constexpr unsigned bits = 1u << bits_log2;
  static constexpr unsigned size = bits / word_bits;  // in words

  Word words[size];
  std::uint64_t count;

  // The first `ones` bits set, the others clear.
  explicit Leaf(unsigned ones) noexcept;
  Leaf(const Leaf&) = default;

  bool test(unsigned bit) const noexcept { return words[bit / word_bits] >> bit % word_bits & 1; }

  // These answer by how much the count grew (modulo 2^64).
  // Sets or clears [from, to), from < to.
  std::uint64_t assign(unsigned from, unsigned to, bool value) noexcept;

  // Replaces n words from the index `at`, or adds to them.
  std::uint64_t put(unsigned at, const Word* from, unsigned n) noexcept;
  std::uint64_t merge(unsigned at, const Word* from, unsigned n) noexcept;

  // The first bit at or after `from` that has the value, else `bits`.
  unsigned find(unsigned from, bool value) const noexcept;

  // Flips the first `n` bits; those beyond are clear and stay so.
  void flip(unsigned n) noexcept;
};

}  // namespace tidemark
