#include "bitmap/words.hpp"

#include <bit>
#include <cstring>

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

// Four words that the compiler keeps in one or two vector registers, and where they lie in memory.
typedef Word Vector __attribute__((vector_size(32)));
typedef Word Unaligned __attribute__((vector_size(32), aligned(8), may_alias));

TM_INLINE std::uint64_t ones(Word word) noexcept {
  return static_cast<unsigned>(std::popcount(word));
}

TM_INLINE std::uint64_t count_loop(const Word* words, std::size_t n) noexcept {
  std::uint64_t even = 0;
  std::uint64_t odd = 0;
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    even += ones(words[i]) + ones(words[i + 1]);
    odd += ones(words[i + 2]) + ones(words[i + 3]);
  }
  for (; i < n; ++i) even += ones(words[i]);
  return even + odd;
}

// In blocks of a few cache lines: one pass of vectors, and one that counts them from the first
// cache.
TM_INLINE std::uint64_t or_loop(Word* to, const Word* from, std::size_t n) noexcept {
  constexpr std::size_t block = 64;
  std::uint64_t count = 0;
  std::size_t i = 0;
  for (; i + block <= n; i += block) {
    Unaligned* wide_to = reinterpret_cast<Unaligned*>(to + i);
    const Unaligned* wide_from = reinterpret_cast<const Unaligned*>(from + i);
    for (std::size_t j = 0; j < block / 4; ++j) wide_to[j] |= wide_from[j];
    count += count_loop(to + i, block);
  }
  for (; i < n; ++i) count += ones(to[i] |= from[i]);
  return count;
}

TM_INLINE std::size_t find_loop(const Word* words, std::size_t from, std::size_t n,
                                Word value) noexcept {
  constexpr std::size_t block = 16;
  const Vector same = {value, value, value, value};
  std::size_t i = from;
  for (; i < n && i % block != 0; ++i)
    if (words[i] != value) return i;
  for (; i + block <= n; i += block) {
    const Unaligned* wide = reinterpret_cast<const Unaligned*>(words + i);
    const Vector differs =
        (wide[0] ^ same) | (wide[1] ^ same) | (wide[2] ^ same) | (wide[3] ^ same);
    if ((differs[0] | differs[1] | differs[2] | differs[3]) != 0) break;
  }
  while (i < n && words[i] == value) ++i;
  return i;
}

// The even bits of each word, moved together into its lower half.
template <class T>
TM_INLINE void gather_even(T& x) noexcept {
  x &= 0x5555555555555555;
  x = (x | x >> 1) & 0x3333333333333333;
  x = (x | x >> 2) & 0x0f0f0f0f0f0f0f0f;
  x = (x | x >> 4) & 0x00ff00ff00ff00ff;
  x = (x | x >> 8) & 0x0000ffff0000ffff;
  x = (x | x >> 16) & 0x00000000ffffffff;
}

// The reverse, and each bit twice.
template <class T>
TM_INLINE void scatter_twice(T& x) noexcept {
  x &= 0x00000000ffffffff;
  x = (x | x << 16) & 0x0000ffff0000ffff;
  x = (x | x << 8) & 0x00ff00ff00ff00ff;
  x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
  x = (x | x << 2) & 0x3333333333333333;
  x = (x | x << 1) & 0x5555555555555555;
  x |= x << 1;
}

TM_INLINE void fold_loop(Word* to, const Word* from, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const Unaligned* wide = reinterpret_cast<const Unaligned*>(from + i);
    Vector a = wide[0] | wide[0] >> 1;
    Vector b = wide[1] | wide[1] >> 1;
    gather_even(a);
    gather_even(b);
    *reinterpret_cast<Unaligned*>(to + i / 2) =
        __builtin_shufflevector(a, b, 0, 2, 4, 6) | __builtin_shufflevector(a, b, 1, 3, 5, 7) << 32;
  }
  for (; i < n; i += 2) {
    Word low = from[i] | from[i] >> 1;
    Word high = from[i + 1] | from[i + 1] >> 1;
    gather_even(low);
    gather_even(high);
    to[i / 2] = low | high << 32;
  }
}

TM_INLINE void spread_loop(Word* to, const Word* from, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    Vector low = *reinterpret_cast<const Unaligned*>(from + i);
    Vector high = low >> 32;
    scatter_twice(low);
    scatter_twice(high);
    Unaligned* wide = reinterpret_cast<Unaligned*>(to + 2 * i);
    wide[0] = __builtin_shufflevector(low, high, 0, 4, 1, 5);
    wide[1] = __builtin_shufflevector(low, high, 2, 6, 3, 7);
  }
  for (; i < n; ++i) {
    to[2 * i] = from[i];
    to[2 * i + 1] = from[i] >> 32;
    scatter_twice(to[2 * i]);
    scatter_twice(to[2 * i + 1]);
  }
}

TM_WIDE std::uint64_t count_wide(const Word* words, std::size_t n) noexcept {
  return count_loop(words, n);
}

TM_WIDE std::uint64_t or_wide(Word* to, const Word* from, std::size_t n) noexcept {
  return or_loop(to, from, n);
}

TM_WIDE std::size_t find_wide(const Word* words, std::size_t from, std::size_t n,
                              Word value) noexcept {
  return find_loop(words, from, n, value);
}

TM_WIDE void fold_wide(Word* to, const Word* from, std::size_t n) noexcept {
  fold_loop(to, from, n);
}

TM_WIDE void spread_wide(Word* to, const Word* from, std::size_t n) noexcept {
  spread_loop(to, from, n);
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
  return TM_DISPATCH(find_wide(words, from, n, value), find_loop(words, from, n, value));
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
  TM_DISPATCH(fold_wide(to, from, n), fold_loop(to, from, n));
}

void spread_words(Word* to, const Word* from, std::size_t n) noexcept {
  TM_DISPATCH(spread_wide(to, from, n), spread_loop(to, from, n));
}

}  // namespace tidemark
