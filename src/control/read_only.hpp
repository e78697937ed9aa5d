// A node that is only read from now on, or written too: with its persistent bitmaps, which are stored then as if it were closed,
// and come back as if it were opened.
#pragma once

#include "block/graph.hpp"

namespace tidemark {

// On the node's thread; the node is drained by the caller.  On error it is as it was.
Task<> set_read_only(BlockNode& node, bool read_only);
// Errc::busy while a bitmap of the node is in use, or a group holds one.
Result<> check_bitmaps_free(BlockNode& node);
// What a group comes to would not be durable without the store: Errc::busy while it holds a bitmap of the node.
Result<> check_no_group(BlockNode& node);
// Its tracking, which has ended before it was meant to, begins again; where that fails its bitmaps are inconsistent.
Task<> resume_tracking(BlockNode& node, NodeTracking& tracking);

}  // namespace tidemark
