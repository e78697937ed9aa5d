// What is done to one disk when checkpoints come and go, as steps of a transaction; what is known of them.
//
// All on the disk's thread, with the disk at rest for what changes something: as in bitmap_actions.hpp.  Invariant, at any moment
// and after any crash: what was written since a checkpoint that somebody was told of is in its bitmap or in a later one's.
#pragma once

#include "block/checkpoints.hpp"
#include "block/graph.hpp"
#include "control/bitmaps/bitmap_change.hpp"
#include "schema/checkpoint.hpp"

namespace tidemark {

// The node that has a disk's checkpoints.
Task<BlockNode*> find_disk_image(Graph& graph, std::string node);
// Ahead of all else, while guests go on: what takes its time.
Task<> prepare_checkpoint(Graph& graph, std::string node, const schema::CheckpointCreate& arguments);

Task<> create_checkpoint(BlockNode& image, const schema::CheckpointCreate& arguments, std::uint64_t taken, BitmapChange& change);
// The one before it takes over what it holds, and records if it did.
Result<> delete_checkpoint(BlockNode& image, const std::string& name, BitmapChange& change);
// A time that no checkpoint of the disk has yet, `now` or later.
Task<std::uint64_t> next_time(BlockNode& image, std::uint64_t now);

// Whether the node is where the disk is: else the checkpoint is what a layer has of its time.
bool is_current(BlockNode& image, const Checkpoint& checkpoint);
// Those of one thread: of each disk, the oldest first.
struct FoundCheckpoint {
  CheckpointName name;
  schema::CheckpointDisk disk;
};
Task<std::vector<FoundCheckpoint>> describe_checkpoints(Graph& graph);

}  // namespace tidemark
