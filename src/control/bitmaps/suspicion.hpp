// Ends the suspicion that a crash left, by comparing content with the checksums of the bitmap's point.
#pragma once

#include "block/graph.hpp"
#include "schema/bitmap.hpp"

namespace tidemark {

// On the node's thread.  Only suspected granules are read; those whose content is as it was become clean,
// durably.  Guests may write meanwhile: what they mark is suspected no more, and stays dirty.
// Errc::busy once the node is not where the disk is any more, or does not have the bitmap: what was found clean until then is.
Task<schema::BlockDirtyBitmapSuspicion> clear_suspected(Graph& graph, const schema::BlockDirtyBitmapClearSuspected& arguments);

}  // namespace tidemark
