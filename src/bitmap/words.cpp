#include "bitmap/words.hpp"

#include <bit>

// A loop written once and compiled twice: for any processor of the architecture, and for those with
// AVX2 and POPCNT.  A leaf is 4 KiB, so the choice costs nothing beside the loop.
#if defined(__x86_64__)
#define TM_WIDE __attribute__((target("avx2,bmi,bmi2,popcnt")))
#define TM_DISPATCH(wide, plain) \
  (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") ? (wide) : (plain))
#else
#define TM_WIDE
#define TM_DISPATCH(wide, plain) (plain)
#endif
#define TM_INLINE __attribute__((always_inline)) inline

namespace tidemark {
namespace {

TM_INLINE std::uint64_t count_loop(const Word* words, std::size_t n) noexcept {
  std::uint64_t count = 0;
  for (std::size_t i = 0; i < n; ++i) count += static_cast<unsigned>(std::popcount(words[i]));
  return count;
}

// Blocks of a few cache lines: the first loop is vectors, the second finds them in the first cache.
TM_INLINE std::uint64_t or_loop(Word* to, const Word* from, std::size_t n) noexcept {
  constexpr std::size_t block = 32;
  std::uint64_t count = 0;
  std::size_t i = 0;
  for (; i + block <= n; i += block) {
    for (std::size_t j = i; j < i + block; ++j) to[j] |= from[j];
    count += count_loop(to + i, block);
  }
  for (; i < n; ++i) {
    to[i] |= from[i];
    count += static_cast<unsigned>(std::popcount(to[i]));
  }
  return count;
}

// The even bits of x, moved together into its lower half.
TM_INLINE Word gather_even(Word x) noexcept {
  x &= 0x5555555555555555;
  x = (x | x >> 1) & 0x3333333333333333;
  x = (x | x >> 2) & 0x0f0f0f0f0f0f0f0f;
  x = (x | x >> 4) & 0x00ff00ff00ff00ff;
  x = (x | x >> 8) & 0x0000ffff0000ffff;
  return (x | x >> 16) & 0x00000000ffffffff;
}

// The reverse: the lower half of x, spread over the even bits.
TM_INLINE Word scatter_even(Word x) noexcept {
  x &= 0x00000000ffffffff;
  x = (x | x << 16) & 0x0000ffff0000ffff;
  x = (x | x << 8) & 0x00ff00ff00ff00ff;
  x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
  x = (x | x << 2) & 0x3333333333333333;
  return (x | x << 1) & 0x5555555555555555;
}

TM_WIDE std::uint64_t count_wide(const Word* words, std::size_t n) noexcept {
  return count_loop(words, n);
}

TM_WIDE std::uint64_t or_wide(Word* to, const Word* from, std::size_t n) noexcept {
  return or_loop(to, from, n);
}

}  // namespace

std::uint64_t count_words(const Word* words, std::size_t n) noexcept {
  return TM_DISPATCH(count_wide(words, n), count_loop(words, n));
}

std::uint64_t or_words(Word* to, const Word* from, std::size_t n) noexcept {
  return TM_DISPATCH(or_wide(to, from, n), or_loop(to, from, n));
}

void flip_words(Word* words, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) words[i] = ~words[i];
}

std::size_t find_word_not(const Word* words, std::size_t from, std::size_t n, Word value) noexcept {
  constexpr std::size_t block = 8;
  std::size_t i = from;
  for (; i + block <= n; i += block) {
    Word differs = 0;
    for (std::size_t j = 0; j < block; ++j) differs |= words[i + j] ^ value;
    if (differs != 0) break;
  }
  while (i < n && words[i] == value) ++i;
  return i;
}

bool cut_words(Word* words, std::size_t n, std::uint64_t end) noexcept {
  bool any = false;
  for (std::size_t i = end / word_bits; i < n; ++i) {
    const Word keep = i == end / word_bits ? word_mask(0, end % word_bits) : 0;
    any = any || (words[i] & ~keep) != 0;
    words[i] &= keep;
  }
  return any;
}

void fold_words(Word* to, const Word* from, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n / 2; ++i) {
    const Word low = from[2 * i];
    const Word high = from[2 * i + 1];
    to[i] = gather_even(low | low >> 1) | gather_even(high | high >> 1) << 32;
  }
}

void spread_words(Word* to, const Word* from, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) {
    to[2 * i] = scatter_even(from[i]) * 3;
    to[2 * i + 1] = scatter_even(from[i] >> 32) * 3;
  }
}

}  // namespace tidemark
