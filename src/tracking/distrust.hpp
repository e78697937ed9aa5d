// A store that nobody has open is told that its device may have been written without it.
#pragma once

#include <string>

#include "io/reactor.hpp"

namespace tidemark::tracking {

// Its bitmaps are inconsistent from then on, durably, with that reason; those that are already stay as they are.  False: there is none
// that could be believed.  Errc::busy when somebody has it.
Task<bool> distrust(Reactor& reactor, std::string path, std::string why);

}  // namespace tidemark::tracking
