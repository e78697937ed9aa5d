// DirtyBitmap's dense form: one bit a granule, least significant first, chunk by chunk.
#include <algorithm>
#include <cstring>

#include "bitmap/dirty_bitmap.hpp"

namespace tidemark {

namespace {

void store_words(std::byte* to, const Word* from, std::size_t bytes) noexcept {
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(to, from, bytes);
  } else {
    for (std::size_t i = 0; i < bytes; ++i)
      to[i] = static_cast<std::byte>(from[i / 8] >> i % 8 * 8);
  }
}

// Up to a leaf's bytes; the rest of the last word is zero.
void load_words(Word* to, Bytes from) noexcept {
  to[(from.size() - 1) / sizeof(Word)] = 0;
  std::memcpy(to, from.data(), from.size());
  if constexpr (std::endian::native == std::endian::big)
    for (std::size_t i = 0; i < div_up(from.size(), sizeof(Word)); ++i) to[i] = byte_swap(to[i]);
}

// n bits set from the start of `to` on.
void store_ones(std::byte* to, std::uint64_t n) noexcept {
  std::memset(to, 0xff, n / 8);
  if (n % 8 != 0) to[n / 8] = static_cast<std::byte>(word_mask(0, n % 8));
}

}  // namespace

void DirtyBitmap::store_chunk(std::uint64_t first_granule, MutableBytes chunk) const noexcept {
  TM_ASSERT(first_granule % word_bits == 0);
  std::ranges::fill(chunk, std::byte{0});
  const std::uint64_t bits = std::uint64_t{chunk.size()} * 8;
  std::uint64_t at = first_granule;
  while ((at = bits_.find(at, true)) < granules() && at - first_granule < bits) {
    const auto piece = bits_.piece_at(at);
    const std::uint64_t from = std::max(piece.from, first_granule);
    const std::uint64_t n = std::min(piece.to - from, bits - (from - first_granule));
    std::byte* to = chunk.data() + (from - first_granule) / 8;
    Word scratch[Leaf::size];
    if (piece.leaf)
      store_words(to, piece.leaf->words(scratch) + (from - piece.from) / word_bits, div_up(n, 8));
    else
      store_ones(to, n);
    at = piece.to;
  }
}

bool DirtyBitmap::load_chunk(std::uint64_t first_granule, Bytes chunk) noexcept {
  TM_ASSERT(first_granule % word_bits == 0);
  std::uint64_t at = first_granule;
  while (!chunk.empty() && at < granules()) {
    const std::size_t room = (Leaf::bits - at % Leaf::bits) / 8;
    const Bytes part = chunk.first(std::min(room, chunk.size()));
    TM_ASSERT(part.size() % sizeof(Word) == 0 || granules() - at <= part.size() * 8);
    Word words[Leaf::size];
    load_words(words, part);
    const auto n = static_cast<unsigned>(div_up(part.size(), sizeof(Word)));
    const bool beyond = cut_words(words, n, granules() - at);
    changed().put(at, words, n);
    if (beyond) return false;
    chunk = chunk.subspan(part.size());
    at += part.size() * 8;
  }
  return is_zero(chunk);
}

std::span<const std::uint16_t> DirtyBitmap::few_at(std::uint64_t first_granule) const noexcept {
  TM_ASSERT(first_granule % stretch_granules == 0);
  const auto piece = bits_.piece_at(first_granule);
  return piece.leaf ? piece.leaf->few() : std::span<const std::uint16_t>();
}

bool DirtyBitmap::set_few(std::uint64_t first_granule, std::span<const std::uint16_t> numbers) noexcept {
  TM_ASSERT(first_granule % stretch_granules == 0);
  for (const std::uint16_t number : numbers)
    if (number >= stretch_granules || first_granule + number >= granules()) return false;
  changed().add(first_granule, numbers);
  return true;
}

DirtyBitmap::Fill DirtyBitmap::chunk_fill(std::uint64_t first_granule,
                                          std::uint64_t n) const noexcept {
  const std::uint64_t end = std::min(granules(), first_granule + std::min(n, granules()));
  if (bits_.find(first_granule, true) >= end) return Fill::clean;
  return bits_.find(first_granule, false) >= end ? Fill::dirty : Fill::mixed;
}

std::span<const Word> DirtyBitmap::words_at(std::uint64_t granule,
                                            std::span<Word> scratch) const noexcept {
  const auto piece = bits_.piece_at(granule);
  const std::uint64_t bits = std::min<std::uint64_t>(Leaf::bits, granules() - granule);
  const std::size_t n = std::max<std::uint64_t>(div_up(bits, word_bits), 1);
  if (piece.leaf) return {piece.leaf->words(scratch.data()), n};
  std::ranges::fill(scratch.first(n), piece.value ? all_ones : 0);
  cut_words(scratch.data(), n, bits);
  return scratch.first(n);
}

}  // namespace tidemark
