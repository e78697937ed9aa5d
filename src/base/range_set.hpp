// RangeSet: the bytes of some ranges, as a set.
//
// Invariant: the ranges kept are not empty, do not meet, and do not touch.
#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <vector>

#include "base/units.hpp"

namespace tidemark {

class RangeSet {
 public:
  void add(Range range) {
    if (range.empty()) return;
    std::uint64_t begin = range.offset, end = range.end();
    auto at = first_from(begin);
    while (at != ends_.end() && at->first <= end) {
      begin = std::min(begin, at->first);
      end = std::max(end, at->second);
      at = ends_.erase(at);
    }
    ends_.emplace(begin, end);
  }

  bool meets(Range range) const noexcept {
    const auto at = ends_.lower_bound(range.end());        // the first that begins behind it
    return !range.empty() && at != ends_.begin() && std::prev(at)->second > range.offset;
  }

  // The parts of `range` that are not in the set, in order.
  std::vector<Range> outside(Range range) const {
    std::vector<Range> parts;
    std::uint64_t begin = range.offset;
    auto at = ends_.upper_bound(begin);
    if (at != ends_.begin()) begin = std::max(begin, std::prev(at)->second);
    for (; begin < range.end(); ++at) {
      const std::uint64_t end = at == ends_.end() ? range.end() : std::min(at->first, range.end());
      if (begin < end) parts.push_back({begin, end - begin});
      if (at == ends_.end() || end == range.end()) break;
      begin = at->second;
    }
    return parts;
  }

 private:
  // The first that ends at `offset` or behind.
  std::map<std::uint64_t, std::uint64_t>::iterator first_from(std::uint64_t offset) {
    auto at = ends_.upper_bound(offset);
    return at != ends_.begin() && std::prev(at)->second >= offset ? std::prev(at) : at;
  }

  std::map<std::uint64_t, std::uint64_t> ends_;            // by their beginnings
};

}  // namespace tidemark
