// What can be done to bitmaps, as steps of a transaction: each call does its part at once and leaves
// in the transaction how to take effect for good or be undone.
//
// All on the nodes' thread.  The caller keeps the nodes drained until it commits or aborts, so nothing
// is marked in between and undoing drops no mark.  What becomes of persistent bitmaps is durable when the
// node's tracking was saved: before the commit, so that what was added is there; after it, too, so that what
// was dropped is forgotten.
#pragma once

#include "block/graph.hpp"
#include "block/transaction.hpp"
#include "control/graph/bitmap_lookup.hpp"
#include "schema/bitmap.hpp"

namespace tidemark {

// `granularity` is what a bitmap of this node has by default.  The node has tracking when it is persistent.
Result<> add_bitmap(Graph& graph, const schema::BlockDirtyBitmapAdd& arguments, std::uint32_t granularity,
                    Transaction& transaction);
Result<> remove_bitmap(Graph& graph, const schema::BlockDirtyBitmap& arguments, Transaction& transaction);
// Out of sight for what follows in the transaction; on recording until it is over.
void retire_bitmap(NodeBitmaps& bitmaps, NodeBitmap& bitmap, Transaction& transaction);
Result<> clear_bitmap(Graph& graph, const schema::BlockDirtyBitmap& arguments, Transaction& transaction);
Result<> enable_bitmap(Graph& graph, const schema::BlockDirtyBitmap& arguments, bool enabled, Transaction& transaction);
// `foreign` holds the bits of the sources that are on other threads, in their order.
using ForeignBits = std::vector<std::optional<DirtyBitmap>>;
Result<> merge_bitmaps(Graph& graph, const schema::BlockDirtyBitmapMerge& arguments, const ForeignBits& foreign,
                       Transaction& transaction);
// Called on the main thread; the target is at `place`.
Task<ForeignBits> copy_foreign_sources(Homes& homes, const schema::BlockDirtyBitmapMerge& arguments, const Place& place);
// The node of a source that is not the target's; null when it is the target's.
const std::string* source_node(const schema::BlockDirtyBitmapOrStr& source);

// Of a bitmap that is to be persistent: its node has tracking, and can keep it.
Task<> prepare_persistent(BlockNode& node, const schema::BlockDirtyBitmapAdd& arguments, std::uint32_t granularity);

// QEMU's default: the image's cluster size, between 4 KiB and 64 KiB; 64 KiB where there is none.
Task<std::uint32_t> default_granularity(BlockNode& node);

}  // namespace tidemark
