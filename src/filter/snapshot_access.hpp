// snapshot-access: the point in time of a copy-before-write node, as a disk of its own.
//
// Reads give the content of the point, whatever was written since; a range outside the point is
// EACCES.  Nothing can be written; discarding says that a range will not be read again, so that it
// need not be kept any longer.
#pragma once

#include <memory>

#include "block/node.hpp"

namespace tidemark {

// `file` is a node of the copy-before-write driver.
Task<std::unique_ptr<BlockDriver>> open_snapshot_access(BlockNode& file);

}  // namespace tidemark
