// Which kind of backup a disk gets: pure, from the points of a directory and the bitmaps of a node.
//
// Every backup starts a bitmap of its own on each disk, named after its point and the disk, in the transaction that takes
// the point; the bitmap of the point before goes only once the new point is published.  So a bitmap
// always says which disk of which point it began at, and whatever dies in between leaves a bitmap that is right for a
// point that exists, and litter that says by its name that it is litter.
//
// Invariant: a disk builds on the image of a point only if a bitmap on its node proves that it is the disk in that image,
// whatever the node is called by now.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backup/directory.hpp"

namespace tidemark {

enum class BackupLevel : std::uint8_t { automatic, full, incremental };

struct NodeBitmapState {
  std::string name;
  bool recording = false, busy = false, inconsistent = false;
};

struct DiskPlan {
  std::optional<std::string> base;              // the point to build on; none: full
  std::string base_bitmap;                      // records since `base`
  std::string full_reason;                      // why not incremental; for people
  std::string identity;                         // the disk's (DiskManifest); empty: nothing proves that it was here before
};

// "tidemark:DIRECTORY:POINT:DISK"
std::string bitmap_name(std::string_view directory_id, std::string_view point_id, std::string_view disk);
// What all of a directory's begin with.
std::string bitmap_prefix(std::string_view directory_id);

// Errc::not_found when `level` is incremental and no point can be built on; says why.
Result<DiskPlan> plan_disk(const BackupDirectory& directory, std::string_view disk, std::uint64_t disk_size,
                           const std::vector<NodeBitmapState>& bitmaps, BackupLevel level);

// On the newest point that was taken with the checkpoint of this name, which the node must still have.
Result<DiskPlan> plan_since(const BackupDirectory& directory, std::string_view disk, std::uint64_t disk_size,
                            const std::vector<NodeBitmapState>& bitmaps, std::string_view checkpoint);

}  // namespace tidemark
