// The granule of a copy before write: how much old content is copied at once, at least.
//
// A granule that is smaller than the target's clusters would leave clusters half written, whose
// other half then shows the target's backing file instead of the point.  So it is QEMU's: 64 KiB,
// the target's cluster size or what the user asks for, whichever is largest.
#pragma once

#include <string>

#include "block/node.hpp"

namespace tidemark {

struct Granule {
  std::uint64_t size = 64 * KiB;
  std::uint64_t target_cluster = 0;  // 0: the target has none
  std::string warning;               // for the user, when the target would not say
};

Task<Granule> choose_granule(BlockNode& target, std::uint64_t min_cluster_size);

}  // namespace tidemark
