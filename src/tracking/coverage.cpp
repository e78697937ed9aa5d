#include "tracking/coverage.hpp"

#include <array>

namespace tidemark::tracking {
namespace {

constexpr std::uint64_t chunk_granules = DirtyBitmap::stretch_granules;
using Chunk = std::array<std::byte, chunk_granules / 8>;

enum class Drop : bool { clean, dirty };

// Of few granules.
void filter_few(DirtyBitmap& set, const DirtyBitmap& other, Drop drop, std::uint64_t first) {
  std::array<std::uint16_t, DirtyBitmap::few_max> gone;
  std::size_t n = 0;
  for (const std::uint16_t number : set.few_at(first))
    if (other.test((first + number) * set.granularity()) == (drop == Drop::dirty)) gone[n++] = number;
  for (std::size_t at = 0; at < n; ++at) {
    const Range granule{(first + gone[at]) * set.granularity(), set.granularity()};
    set.clear(granule.intersect({0, set.size()}));
  }
}

// What of a chunk of `set` is left.
void filter_chunk(DirtyBitmap& set, const DirtyBitmap& other, Drop drop, std::uint64_t first) {
  if (!set.few_at(first).empty()) return filter_few(set, other, drop, first);
  Chunk mine, theirs;
  set.store_chunk(first, mine);
  other.store_chunk(first, theirs);
  const std::uint64_t flip = drop == Drop::dirty ? ~std::uint64_t{0} : 0;
  std::uint64_t gone = 0;
  for (std::size_t at = 0; at < mine.size(); at += 8) {
    const auto had = load_le<std::uint64_t>(mine.data() + at);
    const std::uint64_t left = had & (load_le<std::uint64_t>(theirs.data() + at) ^ flip);
    gone |= had ^ left;
    store_le(mine.data() + at, left);
  }
  if (gone == 0) return;
  const std::uint64_t granules = std::min(chunk_granules, set.granules() - first);
  (void)set.load_chunk(first, Bytes(mine).first(align_up(div_up(granules, 8), 8)));
}

// Takes from `set` what is dirty, or clean, in `other`.  Looks only where there is something to take.
void filter(DirtyBitmap& set, const DirtyBitmap& other, Drop drop) {
  TM_ASSERT(other.granularity() == set.granularity() && other.size() == set.size());
  const auto next_dropped = [&](std::uint64_t at) { return drop == Drop::dirty ? other.next_dirty(at) : other.next_clean(at); };
  const auto next_kept = [&](std::uint64_t at) { return drop == Drop::dirty ? other.next_clean(at) : other.next_dirty(at); };
  const std::uint64_t chunk_bytes = chunk_granules * set.granularity();       // at most 2^46
  for (auto at = set.next_dirty(0); at;) {
    const auto dropped = next_dropped(*at);
    if (!dropped) return;
    const std::uint64_t chunk = align_down(*at, chunk_bytes), end = chunk + chunk_bytes;
    if (*dropped >= end) {
      at = set.next_dirty(*dropped);
      continue;
    }
    const std::uint64_t kept = next_kept(*at).value_or(set.size());
    if (*dropped == *at && kept >= end) {
      set.clear({*at, kept - *at});
      at = set.next_dirty(kept);
      continue;
    }
    filter_chunk(set, other, drop, chunk / set.granularity());
    at = set.next_dirty(end);
  }
}

}  // namespace

void intersect(DirtyBitmap& set, const DirtyBitmap& other) {
  TM_ASSERT(other.granularity() >= set.granularity());
  const bool alike = other.granularity() == set.granularity() && other.size() == set.size();
  if (alike) return filter(set, other, Drop::clean);
  filter(set, with_granularity(other, set.size(), set.granularity()), Drop::clean);
}

void subtract(DirtyBitmap& set, const DirtyBitmap& other) { filter(set, other, Drop::dirty); }

DirtyBitmap with_granularity(const DirtyBitmap& set, std::uint64_t size, std::uint64_t granularity) {
  DirtyBitmap result(size, granularity);
  result.merge(set);
  return result;
}

}  // namespace tidemark::tracking
