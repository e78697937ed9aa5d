// Whether what a job has read below its filter, or written there, may have been lost since, by a flush that failed: whoever asked
// for that flush, and whatever the job's own one says.
#pragma once

#include <cerrno>
#include <string>

#include "block/node.hpp"

namespace tidemark {

// `filter` was made for the job.
inline Result<> check_nothing_lost(const BlockNode& filter) {
  if (filter.losses() == 0) return {};
  const BlockNode* const below = filter.filtered();
  return Error(Errc::io, "node '" + (below ? below->name() : filter.name()) + "' has lost what was written to it: a flush has failed", EIO);
}

}  // namespace tidemark
