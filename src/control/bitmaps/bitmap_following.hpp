// Bitmaps that stay with their disk when layers come and go: a snapshot continues them in the overlay, and the end of a
// commit or mirror in the node that becomes the disk.
//
// Invariant: where the disk is, such a bitmap has by itself all that was written since its point: what it had below is
// among its bits, so that no other layer is needed to tell, nor anybody who knows of layers
// (docs/decisions/0008-bitmaps-that-follow.md).  One that was removed from the disk does not come back from a layer.
// All on the nodes' thread.
#pragma once

#include "block/graph.hpp"
#include "block/transaction.hpp"

namespace tidemark {

// Ahead of the others, while guests go on: what takes its time.
Task<> prepare_to_follow(BlockNode& from, BlockNode& to);
// The overlay is becoming the disk, on top of the node; both are at rest, and what was written to the node is on its disk.
// What is persistent is durable when the overlay's tracking has been saved.
Task<> continue_bitmaps(BlockNode& node, BlockNode& overlay, Transaction& undo);

// `to` holds what `from` shows and is about to take its place; both are at rest, and bitmaps stay where they are until they are dropped
// (Graph::bitmap_changes).  Durable.  On error nothing has changed.
Task<> bring_following_bitmaps(BlockNode& from, BlockNode& to);
// It has taken it.
void drop_following_bitmaps(BlockNode& from) noexcept;
// What was dropped so is gone from where it was kept, too; an error is told.
Task<> forget_following_bitmaps(BlockNode& from);

}  // namespace tidemark
