// Loops over whole 64-bit words: what a leaf's operations are made of.
//
// Bit i of a sequence is bit i % 64 of word i / 64, so on a little-endian machine the bytes of the
// words are the dense layout that qcow2 stores.  The loops that count run with AVX2 and POPCNT
// where the processor has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidemark {

using Word = std::uint64_t;
inline constexpr unsigned word_bits = 64;
inline constexpr Word all_ones = ~Word{0};

// Bits [from, to) of one word; from < 64, to <= 64, from <= to.
constexpr Word word_mask(unsigned from, unsigned to) noexcept {
  if (from == to) return 0;
  return (all_ones << from) & (all_ones >> (word_bits - to));
}

// How many bits are set.
std::uint64_t count_words(const Word* words, std::size_t n) noexcept;

// to |= from; answers how many bits of `to` are set then.
std::uint64_t or_words(Word* to, const Word* from, std::size_t n) noexcept;

void flip_words(Word* words, std::size_t n) noexcept;

// The first index at or after `from` whose word is not `value`, else n.
std::size_t find_word_not(const Word* words, std::size_t from, std::size_t n, Word value) noexcept;

// Clears the bits from `end` on; answers whether any was set.
bool cut_words(Word* words, std::size_t n, std::uint64_t end) noexcept;

// Halves the resolution: bit i of `to` is bit 2i or bit 2i+1 of `from`.  n words become n / 2; n is
// even, and `to` may be `from`.
void fold_words(Word* to, const Word* from, std::size_t n) noexcept;

// Doubles the resolution: bits 2i and 2i+1 of `to` are bit i of `from`.  n words become 2n; the two
// do not overlap.
void spread_words(Word* to, const Word* from, std::size_t n) noexcept;

}  // namespace tidemark
