// Nodes are inactivated: their image may be another program's from then on; and activated: what is held of it is read anew.
//
// Invariant: nothing of an inactive node reaches its image, and what is believed of an active one was read since.
#pragma once

#include <vector>

#include "block/graph.hpp"

namespace tidemark {

// On the nodes' thread.  A node with what it stands on; on error all are as they were.

// Exports that allow it have let go (NbdExport::set_active).  What is used by an active node besides stays active.
Task<> inactivate(BlockNode& node);
Task<> activate(BlockNode& node);

}  // namespace tidemark
