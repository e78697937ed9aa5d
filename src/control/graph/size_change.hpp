// A node changes its size, or what it shows, from below: the bitmaps of those that show it, filters and raw windows, do not
// follow, so they must have none.
#pragma once

#include "block/node.hpp"

namespace tidemark {

// On the node's thread.  The node's own bitmaps are the caller's.
Result<> check_no_bitmaps_above(const BlockNode& node);

}  // namespace tidemark
