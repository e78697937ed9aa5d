// Space: which pages of a store are in use by a snapshot, kept in memory only and made anew from the
// catalogue.
//
// Invariant: what the last durable root names is never handed out.
#pragma once

#include "bitmap/dirty_bitmap.hpp"
#include "tracking/catalogue.hpp"
#include "tracking/superblock.hpp"

namespace tidemark::tracking {

inline constexpr std::uint64_t page_bytes = 4096;

class Space {
 public:
  explicit Space(std::uint64_t data_start) : used_(max_disk_size, page_bytes) { take({0, data_start}); }

  void take(Range bytes) { used_.set(bytes); }
  void take(const Superblock& root, const Catalogue& catalogue);
  void give_back(Range pages) { used_.clear(pages); }

  // Adjoining pages, the first that are free.
  Range allocate(std::uint64_t bytes);
  std::uint64_t end() const noexcept;     // behind the last page in use

 private:
  void take(const std::vector<CatalogueEntry>& entries);

  DirtyBitmap used_;
};

}  // namespace tidemark::tracking
