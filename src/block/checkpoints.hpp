// Checkpoints of one disk: named points in time, each held by a bitmap of the disk's image.  The newest records; one before it
// holds what was written from its point to the next one's, so that what was written since a checkpoint is what it and those
// after it hold.
//
// All that is known of a checkpoint is its bitmap's name, "checkpoint:MICROSECONDS:NAME": when it was taken, since 1970, which is
// also the order of those of a disk, and its name.  So they are wherever their bitmaps are: in images, stores, overlays.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "block/node_bitmap.hpp"

namespace tidemark {

struct CheckpointName {
  std::uint64_t taken;                   // microseconds since 1970, and another one for each of a disk
  std::string name;

  std::string bitmap() const;
};
// Nothing for a bitmap that is no checkpoint's.
std::optional<CheckpointName> checkpoint_of(std::string_view bitmap);
Result<> check_checkpoint_name(const std::string& name);

struct Checkpoint {
  CheckpointName name;
  NodeBitmap* bitmap;
};
// Of the disk whose image has these bitmaps, the oldest first.
std::vector<Checkpoint> checkpoints_in(const NodeBitmaps& bitmaps);
// The last of them that has the name.
std::vector<Checkpoint>::const_iterator find_checkpoint(const std::vector<Checkpoint>& all, std::string_view name);

// Only the newest records.  A crash while one was taken may have left the one before it recording, too: that ends here.  One that
// does not record, because another program has disabled it or removed what did, is inconsistent.  Safe at any moment at which nobody
// writes: what comes is in the newest.
void end_older(NodeBitmaps& bitmaps);

// What was written from there on.  Errc::corrupt when one of the bitmaps cannot be believed, or the newest does not record.
Result<DirtyBitmap> written_since(const std::vector<Checkpoint>& all, std::vector<Checkpoint>::const_iterator from);

}  // namespace tidemark
