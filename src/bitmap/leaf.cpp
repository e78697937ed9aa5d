#include "bitmap/leaf.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace tidemark {
namespace {

std::unique_ptr<Word[]> new_words() { return std::make_unique_for_overwrite<Word[]>(Leaf::size); }

std::uint64_t assign_word(Word& word, Word mask, bool value) noexcept {
  const Word changed = (value ? ~word : word) & mask;
  if (changed == 0) return 0;  // and its cache line stays unwritten
  word ^= changed;
  return (changed & (changed - 1)) == 0 ? 1 : static_cast<unsigned>(std::popcount(changed));
}

}  // namespace

Leaf::Leaf(unsigned ones) noexcept : count(ones) {
  if (ones <= few_max) {
    std::iota(few_.data(), few_.data() + ones, std::uint16_t{0});
    return;
  }
  words_ = new_words();
  const unsigned whole = ones / word_bits;
  std::memset(words_.get(), 0xff, whole * sizeof(Word));
  std::memset(words_.get() + whole, 0, (size - whole) * sizeof(Word));
  if (ones % word_bits != 0) words_[whole] = word_mask(0, ones % word_bits);
}

Leaf::Leaf(const Leaf& other) noexcept : count(other.count) {
  if (!other.words_) {
    std::copy(other.few_.data(), other.few_end(), few_.data());
    return;
  }
  words_ = new_words();
  std::memcpy(words_.get(), other.words_.get(), size * sizeof(Word));
}

const std::uint16_t* Leaf::few_at(unsigned bit) const noexcept {
  return std::find_if(few_.data(), few_end(), [bit](std::uint16_t b) { return b >= bit; });
}

const Word* Leaf::words(Word* scratch) const noexcept {
  if (words_) return words_.get();
  std::memset(scratch, 0, size * sizeof(Word));
  for (const std::uint16_t* bit = few_.data(); bit != few_end(); ++bit) scratch[*bit / word_bits] |= Word{1} << *bit % word_bits;
  return scratch;
}

void Leaf::spread() noexcept {
  if (words_) return;
  auto all = new_words();
  (void)words(all.get());
  words_ = std::move(all);
}

void Leaf::gather() noexcept {
  if (!words_ || count > few_max) return;
  std::uint16_t* to = few_.data();
  for (unsigned at = 0; at < size; ++at)
    for (Word left = words_[at]; left != 0; left &= left - 1)
      *to++ = static_cast<std::uint16_t>(at * word_bits + static_cast<unsigned>(std::countr_zero(left)));
  words_.reset();
}

bool operator==(const Leaf& a, const Leaf& b) noexcept {
  if (a.count != b.count) return false;
  if (!a.words_) return std::equal(a.few_.data(), a.few_end(), b.few_.data());
  return std::memcmp(a.words_.get(), b.words_.get(), Leaf::size * sizeof(Word)) == 0;
}

std::uint64_t Leaf::assign(unsigned from, unsigned to, bool value) noexcept {
  if (!words_ && (!value || count + (to - from) <= few_max)) return assign_few(from, to, value);
  spread();
  const std::uint64_t grown = assign_words(from, to, value);
  gather();
  return grown;
}

std::uint64_t Leaf::assign_few(unsigned from, unsigned to, bool value) noexcept {
  const auto first = few_at(from) - few_.data();
  const auto last = few_at(to) - few_.data();
  const auto wanted = value ? static_cast<std::ptrdiff_t>(to - from) : 0;
  const auto grown = static_cast<std::uint64_t>(wanted - (last - first));
  if (grown == 0) return 0;
  std::memmove(few_.data() + first + wanted, few_.data() + last, (count - static_cast<std::size_t>(last)) * sizeof few_[0]);
  std::iota(few_.data() + first, few_.data() + first + wanted, static_cast<std::uint16_t>(from));
  count += grown;
  return grown;
}

std::uint64_t Leaf::assign_words(unsigned from, unsigned to, bool value) noexcept {
  Word* const words = words_.get();
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
  if (!words_) {
    const std::uint16_t* at = few_at(from);
    if (value) return at != few_end() ? *at : bits;
    while (at != few_end() && *at == from) ++at, ++from;
    return from;
  }
  const Word skip = value ? 0 : all_ones;
  unsigned at = from / word_bits;
  Word wanted = (words_[at] ^ skip) & (all_ones << from % word_bits);
  if (wanted == 0) {
    at = static_cast<unsigned>(find_word_not(words_.get(), at + 1, size, skip));
    if (at == size) return bits;
    wanted = words_[at] ^ skip;
  }
  return at * word_bits + static_cast<unsigned>(std::countr_zero(wanted));
}

std::uint64_t Leaf::put(unsigned at, const Word* from, unsigned n) noexcept {
  spread();
  const std::uint64_t grown = count_words(from, n) - count_words(words_.get() + at, n);
  std::memcpy(words_.get() + at, from, n * sizeof(Word));
  count += grown;
  gather();
  return grown;
}

std::uint64_t Leaf::merge(unsigned at, const Word* from, unsigned n) noexcept {
  spread();
  const std::uint64_t before = n == size ? count : count_words(words_.get() + at, n);
  const std::uint64_t grown = or_words(words_.get() + at, from, n) - before;
  count += grown;
  gather();
  return grown;
}

std::uint64_t Leaf::merge(const Leaf& from, unsigned end) noexcept {
  if (from.words_) {
    const std::uint64_t grown = merge(0, from.words_.get(), end / word_bits);
    if (end % word_bits == 0) return grown;
    const Word last = from.words_[end / word_bits] & word_mask(0, end % word_bits);
    return grown + merge(end / word_bits, &last, 1);
  }
  return add({from.few_.data(), from.few_at(end)});
}

std::uint64_t Leaf::add(std::span<const std::uint16_t> numbers) noexcept {
  std::uint64_t grown = 0;
  for (const std::uint16_t bit : numbers) grown += assign(bit, bit + 1u, true);
  return grown;
}

void Leaf::flip(unsigned n) noexcept {
  spread();
  flip_words(words_.get(), n / word_bits);
  if (n % word_bits != 0) words_[n / word_bits] ^= word_mask(0, n % word_bits);
  count = n - count;
  gather();
}

}  // namespace tidemark
