// Reopening: what of a node's options can change while it is open, changed, and changed back.
//
// All on the nodes' thread; the nodes, with those that are described inline, are drained by the caller.
#pragma once

#include <functional>

#include "block/graph.hpp"
#include "schema/node.hpp"

namespace tidemark {

// What takes back what was done, the last first; none of it fails but for lack of what worked before.
using UndoSteps = std::vector<std::function<Task<>()>>;

// What is changed besides, if it is: it is described inline.  They are pinned; the node itself is the first.
std::vector<BlockNode*> reopened_with(BlockNode& node, const schema::BlockdevOptions& options);
// What can be said without changing anything, whatever else is reopened with it.
Result<> check_reopen(BlockNode& node, const schema::BlockdevOptions& options);
// One node.  On error nothing of it has changed.
Task<> reopen(BlockNode& node, schema::BlockdevOptions options, UndoSteps& undo);
Task<> take_back(UndoSteps& undo, std::size_t down_to);

}  // namespace tidemark
