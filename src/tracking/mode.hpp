// What the marks of a tracking store survive.
#pragma once

#include <cstdint>

namespace tidemark::tracking {

enum class Mode : std::uint8_t {
  power,      // loss of power: a log write is on stable storage before the guest's write is submitted
  process,    // the daemon's death; after another boot of the host the bitmaps are inconsistent
  off,        // a clean close only
};

}  // namespace tidemark::tracking
