// What a store has of bitmaps, back in memory: of the snapshot that a root names, then of the log.
#pragma once

#include <functional>

#include "block/node_bitmap.hpp"
#include "tracking/rules.hpp"
#include "tracking/store_file.hpp"

namespace tidemark::tracking {

using LoadedBitmaps = std::vector<std::unique_ptr<NodeBitmap>>;

// The bits of the first `size` bytes of the disk.  Frozen bits and successors are one again.  A segment that is damaged is
// dirty, and suspected; `as_stored` is false then, or where a job held a bitmap: what is loaded is more than the catalogue says.
Task<LoadedBitmaps> load_bitmaps(StoreFile& file, const Superblock& root, const Catalogue& catalogue, std::uint64_t size, Rule broken,
                                 bool& as_stored);

struct CrashTraces {
  std::vector<Range> ranges;              // that the log has
  std::optional<std::string> broken;      // why nobody knows what it had
};
Task<CrashTraces> read_crash_traces(StoreFile& file, const Superblock& root, Rule broken);
// Marks what a crash left open: what the log says, or all of it; on a disk that has `size` bytes now.
void mark_traces(LoadedBitmaps& bitmaps, const CrashTraces& traces, std::uint64_t size);

}  // namespace tidemark::tracking
