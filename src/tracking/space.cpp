#include "tracking/space.hpp"

namespace tidemark::tracking {

void Space::take(const Superblock& root, const Catalogue& catalogue) {
  for (const std::uint64_t at : root.catalogue)
    if (root.catalogue_bytes != 0) take({at, root.catalogue_bytes});
  take(catalogue.entries);
  if (catalogue.intent) take(catalogue.intent->entries);
}

void Space::take(const std::vector<CatalogueEntry>& entries) {
  for (const CatalogueEntry& entry : entries)
    for (const SegmentTable& table : entry.tables)
      for (const Segment& s : table)
        if (s.length != 0) take({s.position, s.length});
}

Range Space::allocate(std::uint64_t bytes) {
  const std::uint64_t length = align_up(bytes, page_bytes);
  std::uint64_t at = 0;
  for (;;) {
    const auto from = used_.next_clean(at);
    TM_ASSERT(from && fits(*from, length, used_.size()));      // 8 EiB of segments are not written
    const auto next = used_.next_dirty(*from);
    if (!next || *next - *from >= length) {
      const Range pages{*from, length};
      take(pages);
      return pages;
    }
    at = *next;
  }
}

std::uint64_t Space::end() const noexcept {
  std::uint64_t end = 0;
  for (auto at = used_.next_dirty(0); at;) {
    const auto clean = used_.next_clean(*at);
    if (!clean) return used_.size();
    end = *clean;
    at = used_.next_dirty(end);
  }
  return end;
}

}  // namespace tidemark::tracking
