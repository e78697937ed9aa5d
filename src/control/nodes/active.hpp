// Nodes are inactivated: their image may be another program's from then on; and activated: what is held of it is read anew.
//
// Invariant: nothing of an inactive node reaches its image, and what is believed of an active one was read since.
#pragma once

#include <vector>

#include "block/graph.hpp"

namespace tidemark {

// On the nodes' thread.

// The node with what it stands on, parents first: what would be inactivated with it, or activated.  What an active node uses
// besides stays active.
std::vector<BlockNode*> inactivated_with(BlockNode& node);
std::vector<BlockNode*> activated_with(BlockNode& node);

// On error all are as they were.  Exports that allow it have let go of what is inactivated (NbdExport::set_active).
Task<> inactivate(BlockNode& node);
Task<> inactivate(std::vector<BlockNode*> nodes);          // these and no others, parents first
Task<> activate(BlockNode& node);

}  // namespace tidemark
