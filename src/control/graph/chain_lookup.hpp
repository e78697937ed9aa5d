// Nodes of backing chains, as commands name them: by node, or by the file that was opened.  Filters are nodes of the chain.
#pragma once

#include <string>

#include "block/node.hpp"

namespace tidemark {

// What a node shows: below a filter, or below an image; null at the end.
BlockNode* next_in_chain(const BlockNode& node) noexcept;
// Whether `node` is `top` or below it.
bool chain_contains(BlockNode& top, const BlockNode& node) noexcept;
// The last image of the chain.
BlockNode& last_in_chain(BlockNode& top) noexcept;
// The image above `below`, seen from `top`: the last one when `below` is null; null when there is none.
BlockNode* overlay_of(BlockNode& top, BlockNode* below) noexcept;

// The image below `top` that was opened by this name, or is the one that an image above it names so; null when there is none.
Task<BlockNode*> find_backing_file(BlockNode& top, std::string file);

// Errors are QEMU's, of a node that is looked for by its node-name alone.
Result<BlockNode*> lookup_node_name(BlockNode& somewhere, const std::string& name);
// "Need a root block node": no other node uses it, but for filters that show the disk.
Result<> check_is_root(const BlockNode& node);

}  // namespace tidemark
