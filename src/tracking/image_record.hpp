// ImageRecord: what an image itself says of bitmaps, where its format holds them.  A store and an image are two accounts
// of one disk; which of them counts is in store_open.cpp (docs/decisions/0007-bitmaps-in-qcow2.md).
#pragma once

#include <algorithm>

#include "tracking/load.hpp"

namespace tidemark::tracking {

struct ImageRecord {
  bool can_mark = false;                  // it can carry a mark that every other program takes off before it writes
  bool marked = false;
  std::uint32_t marked_by = 0;            // the store's, by the mark's number; 0: that is not said
  bool dead = false;                      // it held bitmaps, and was written by a program that knows nothing of them
  std::uint64_t digest = 0;               // of the bitmaps it holds; 0: it cannot hold any
  LoadedBitmaps bitmaps{};                // these; one that was in use is inconsistent

  // Somebody closed it, and what it holds was true then.
  bool closed() const noexcept {
    return std::any_of(bitmaps.begin(), bitmaps.end(), [](const auto& bitmap) { return !bitmap->inconsistent(); });
  }
  LoadedBitmaps::iterator find(std::string_view name) noexcept {
    return std::find_if(bitmaps.begin(), bitmaps.end(), [&](const auto& bitmap) { return bitmap->name() == name; });
  }
};

}  // namespace tidemark::tracking
