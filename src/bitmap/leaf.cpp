#include "bitmap/leaf.hpp"

#include <cstring>

namespace tidemark {

Leaf::Leaf(unsigned ones) noexcept : count(ones) {
  const unsigned whole = ones / word_bits;
  std::memset(words, 0xff, whole * sizeof(Word));
  std::memset(words + whole, 0, (size - whole) * sizeof(Word));
  if (ones % word_bits != 0) words[whole] = word_mask(0, ones % word_bits);
}

namespace {

std::uint64_t assign_word(Word& word, Word mask, bool value) noexcept {
  const Word changed = (value ? ~word : word) & mask;
  if (changed == 0) return 0;  // and its cache line stays unwritten
  word ^= changed;
  return (changed & (changed - 1)) == 0 ? 1 : static_cast<unsigned>(std::popcount(changed));
}

}  // namespace

std::uint64_t Leaf::assign(unsigned from, unsigned to, bool value) noexcept {
  const unsigned first = from / word_bits;
  const unsigned last = (to - 1) / word_bits;
  const unsigned from_bit = from % word_bits;
  const unsigned to_bit = (to - 1) % word_bits + 1;
  std::uint64_t changed = 0;
  if (first == last) {
    changed = assign_word(words[first], word_mask(from_bit, to_bit), value);
  } else {
    const unsigned between = last - first - 1;
    const std::uint64_t ones = count_words(words + first + 1, between);
    std::memset(words + first + 1, value ? 0xff : 0, between * sizeof(Word));
    changed = value ? std::uint64_t{between} * word_bits - ones : ones;
    changed += assign_word(words[first], word_mask(from_bit, word_bits), value);
    changed += assign_word(words[last], word_mask(0, to_bit), value);
  }
  const std::uint64_t grown = value ? changed : 0 - changed;
  if (changed != 0) count += grown;  // else its cache line is left alone
  return grown;
}

unsigned Leaf::find(unsigned from, bool value) const noexcept {
  if (from >= bits) return bits;
  const Word skip = value ? 0 : all_ones;
  unsigned at = from / word_bits;
  Word wanted = (words[at] ^ skip) & (all_ones << from % word_bits);
  if (wanted == 0) {
    at = static_cast<unsigned>(find_word_not(words, at + 1, size, skip));
    if (at == size) return bits;
    wanted = words[at] ^ skip;
  }
  return at * word_bits + static_cast<unsigned>(std::countr_zero(wanted));
}

std::uint64_t Leaf::put(unsigned at, const Word* from, unsigned n) noexcept {
  const std::uint64_t grown = count_words(from, n) - count_words(words + at, n);
  std::memcpy(words + at, from, n * sizeof(Word));
  count += grown;
  return grown;
}

std::uint64_t Leaf::merge(unsigned at, const Word* from, unsigned n) noexcept {
  const std::uint64_t before = n == size ? count : count_words(words + at, n);
  const std::uint64_t grown = or_words(words + at, from, n) - before;
  count += grown;
  return grown;
}

void Leaf::flip(unsigned n) noexcept {
  flip_words(words, n / word_bits);
  if (n % word_bits != 0) words[n / word_bits] ^= word_mask(0, n % word_bits);
  count = n - count;
}

}  // namespace tidemark
