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
// Of one that can be written: its persistent bitmaps come back.  On error they are only shown, and it must not be written.
Task<> begin_tracking(BlockNode& node);
// That has failed: it is only read again.  Where that cannot be, its image is not written, until it is opened anew.
Task<> end_begun_writing(BlockNode& node, Error why);
// Its tracking, which has ended before it was meant to, begins again; where that fails its bitmaps are inconsistent,
// or its image has lost something and is not written until it is opened anew.
Task<> resume_tracking(BlockNode& node, NodeTracking& tracking);

}  // namespace tidemark
