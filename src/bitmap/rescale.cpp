// DirtyBitmap::merge between granularities: whole leaves are folded or spread as words, uniform
// stretches are set as ranges.
#include <algorithm>

#include "bitmap/dirty_bitmap.hpp"

namespace tidemark {

namespace {

// A leaf's first bits at half their resolution, `times` over (at most 15): the words of the result,
// at least one.
unsigned fold_leaf(Word* to, const Leaf& leaf, std::uint64_t bits, unsigned times) noexcept {
  if (const Word* from = leaf.words(to); from != to) std::copy_n(from, Leaf::size, to);
  cut_words(to, Leaf::size, bits);
  unsigned n = Leaf::size;
  for (unsigned i = 0; i < times; ++i) {
    if (n == 1) to[1] = 0;
    fold_words(to, to, std::max(n, 2u));
    n = std::max(n / 2, 1u);
  }
  return n;
}

// `Leaf::size >> times` words at double their resolution, `times` over (at most 9): a leaf's worth.
void spread_leaf(Word* to, const Word* from, unsigned times) noexcept {
  Word buffer[Leaf::size];
  std::size_t n = Leaf::size >> times;
  std::copy_n(from, n, to);
  for (unsigned i = 0; i < times; ++i, n *= 2) {
    std::copy_n(to, n, buffer);
    spread_words(to, buffer, n);
  }
}

}  // namespace

// The other has more granules than this for the same bytes.
void DirtyBitmap::merge_finer(const DirtyBitmap& other) noexcept {
  const unsigned ratio = shift_ - other.shift_;
  const std::uint64_t end = std::min(other.granules(), other.granules_of(size_));
  std::uint64_t at = 0;
  while ((at = other.bits_.find(at, true)) < end) {
    const auto piece = other.bits_.piece_at(at);
    const std::uint64_t from = piece.from >> ratio;
    const std::uint64_t to = ((std::min(piece.to, end) - 1) >> ratio) + 1;
    at = to << ratio;
    if (!piece.leaf || ratio >= Leaf::bits_log2) {
      bits_.assign(from, to, true);
      continue;
    }
    Word words[Leaf::size];
    const unsigned n = fold_leaf(words, *piece.leaf, end - piece.from, ratio);
    words[0] <<= from % word_bits;  // a leaf may fold to less than a word
    bits_.merge(align_down(from, word_bits), words, n);
  }
}

// The other has fewer granules than this for the same bytes; its last may reach beyond its disk.
void DirtyBitmap::merge_coarser(const DirtyBitmap& other) noexcept {
  const unsigned ratio = other.shift_ - shift_;
  const std::uint64_t end = std::min(granules(), granules_of(other.size_));
  std::uint64_t at = 0;
  while ((at = other.bits_.find(at, true)) << ratio < end) {
    const auto piece = other.bits_.piece_at(at);
    at = piece.to;
    if (piece.leaf && Leaf::size >> ratio != 0) {
      merge_spread(*piece.leaf, piece.from, ratio, end);
      continue;
    }
    for (std::uint64_t from = piece.from, to; from < piece.to; from = other.bits_.find(to, true)) {
      to = std::min(other.bits_.find(from, false), piece.to);
      if (from << ratio >= end) return;
      bits_.assign(from << ratio, std::min(to << ratio, end), true);
    }
  }
}

// A leaf whose bit 0 is the coarse granule `first`, spread over the leaves it covers here.
void DirtyBitmap::merge_spread(const Leaf& leaf, std::uint64_t first, unsigned ratio,
                               std::uint64_t end) noexcept {
  const unsigned step = Leaf::size >> ratio;
  Word scratch[Leaf::size];
  const Word* const from = leaf.words(scratch);
  for (unsigned at = 0; at < Leaf::size; at += step) {
    const std::uint64_t to = (first + std::uint64_t{at} * word_bits) << ratio;
    if (to >= end) return;
    if (find_word_not(from + at, 0, step, 0) == step) continue;
    Word words[Leaf::size];
    spread_leaf(words, from + at, ratio);
    cut_words(words, Leaf::size, end - to);
    bits_.merge(to, words, Leaf::size);
  }
}

}  // namespace tidemark
