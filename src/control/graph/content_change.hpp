// What a node shows changes without a write: another node takes the place of one below it.  Bitmaps of it, and of all that
// show it, are marked before that, as for a write: durably.
#pragma once

#include "block/node.hpp"

namespace tidemark {

// On the node's thread, and nothing is awaited between the end of these and the change itself.

// Another backing file: what the node has not allocated is marked, and of those above it everything.
Task<> mark_what_is_below(BlockNode& node);
// Anything else: everything of those above it.  The node itself has no bitmaps.
Task<> mark_above(BlockNode& node);

}  // namespace tidemark
