// What a crash left in a half of the log.
//
// Invariant: either every range that was admitted by this half is in `ranges`, or `broken` says why that
// cannot be known, and everything is suspected.  A block that was being written when the power went is
// no reason: its writer never got leave to go on.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/units.hpp"

namespace tidemark::tracking {

struct LogScan {
  std::vector<Range> ranges;
  std::uint64_t epoch_last = 0;           // the highest seen
  std::optional<std::string> broken;
};

// `half` is the whole of it; `epoch` the one that may be in it, later ones may not.
LogScan scan_log(Bytes half, std::uint64_t store_id, std::uint64_t epoch);

}  // namespace tidemark::tracking
