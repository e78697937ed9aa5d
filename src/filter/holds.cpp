#include "filter/holds.hpp"

#include <algorithm>

namespace tidemark {

void Holds::Hold::shrink(std::uint64_t length) noexcept {
  if (length >= place_->length) return;
  place_->length = length;
  holds_->released_.wake_all();
}

bool Holds::any(Range range) const noexcept {
  return std::any_of(held_.begin(), held_.end(), [&](Range held) { return held.overlaps(range); });
}

}  // namespace tidemark
