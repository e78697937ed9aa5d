// Leaf: 32768 bits and how many of them are set, the unit in which a bitmap takes memory: 4 KiB, or a cache line
// where few of them are set.
//
// Invariants: `count` is the number of bits set; bits beyond the bitmap's end are clear.  A leaf with at
// most `few_max` bits set has their numbers, in ascending order, the others have words.
#pragma once

#include <array>
#include <bit>
#include <memory>
#include <span>

#include "bitmap/words.hpp"

namespace tidemark {

struct Leaf {
  static constexpr unsigned bits_log2 = 15;
  static constexpr unsigned bits = 1u << bits_log2;
  static constexpr unsigned size = bits / word_bits;  // in words
  static constexpr unsigned few_max = 20;

  std::uint64_t count;

  // The first `ones` bits set, the others clear.
  explicit Leaf(unsigned ones) noexcept;
  Leaf(const Leaf& other) noexcept;

  bool test(unsigned bit) const noexcept {
    if (words_) return words_[bit / word_bits] >> bit % word_bits & 1;
    const std::uint16_t* at = few_at(bit);
    return at != few_end() && *at == bit;
  }
  // The numbers of the bits set, in ascending order, where there are few; none where the leaf has words.
  std::span<const std::uint16_t> few() const noexcept { return {few_.data(), words_ ? 0 : count}; }
  // All words; in `scratch`, which has `size` of them, where the leaf has none.
  const Word* words(Word* scratch) const noexcept;
  std::size_t heap_bytes() const noexcept { return words_ ? size * sizeof(Word) : 0; }
  friend bool operator==(const Leaf& a, const Leaf& b) noexcept;

  // These answer by how much the count grew (modulo 2^64).
  // Sets or clears [from, to), from < to.
  std::uint64_t assign(unsigned from, unsigned to, bool value) noexcept;

  // Sets bits, by their numbers.
  std::uint64_t add(std::span<const std::uint16_t> numbers) noexcept;

  // Replaces n words from the index `at`, or adds to them.
  std::uint64_t put(unsigned at, const Word* from, unsigned n) noexcept;
  std::uint64_t merge(unsigned at, const Word* from, unsigned n) noexcept;
  // Adds the other's first `end` bits.
  std::uint64_t merge(const Leaf& from, unsigned end) noexcept;

  // The first bit at or after `from` that has the value, else `bits`.
  unsigned find(unsigned from, bool value) const noexcept;

  // Flips the first `n` bits; those beyond are clear and stay so.
  void flip(unsigned n) noexcept;

 private:
  using Few = std::array<std::uint16_t, few_max>;

  const std::uint16_t* few_end() const noexcept { return few_.data() + count; }
  const std::uint16_t* few_at(unsigned bit) const noexcept;       // the first that is not below it
  std::uint64_t assign_few(unsigned from, unsigned to, bool value) noexcept;
  std::uint64_t assign_words(unsigned from, unsigned to, bool value) noexcept;
  void spread() noexcept;                 // to words
  void gather() noexcept;                 // from words, where there are few bits left

  std::unique_ptr<Word[]> words_;
  Few few_;                               // the first `count`, where there are no words
};

}  // namespace tidemark
