// What the marks of a tracking store survive; its number is part of the format.
#pragma once

#include "block/node_tracking.hpp"

namespace tidemark::tracking {

using Mode = TrackingMode;
static_assert(static_cast<int>(Mode::power) == 0 && static_cast<int>(Mode::process) == 1 && static_cast<int>(Mode::off) == 2);

}  // namespace tidemark::tracking
