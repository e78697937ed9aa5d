// Sealing: writing the sums file of an image that a backup job has filled.
#pragma once

#include <functional>

#include "backup/sums.hpp"
#include "block/edge.hpp"

namespace tidemark {

struct Seal {
  Digest sums_digest;
  std::uint64_t stored_bytes = 0;        // of the disk, that this image holds itself
};

// Told again and again how much of the disk has been gone through; its error ends the sealing.
using SealStep = std::function<Result<>(std::uint64_t done)>;

// Reads every granule that `image`'s own layer holds (not those below it) and records its checksum in
// a new file at `sums_path`.  The file is durable when it returns.
Task<Seal> seal_image(Edge& image, std::string sums_path, std::uint64_t disk_size, std::uint32_t granularity,
                      SealStep step);

// The same of a sums file that the backup wrote itself: all that a full one says is zero takes no place.
Task<Seal> read_seal(Reactor& reactor, std::string sums_path, std::uint64_t disk_size, std::uint32_t granularity,
                     bool full);

}  // namespace tidemark
