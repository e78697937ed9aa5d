// Block status over a chain: what QEMU calls bdrv_block_status_above() and bdrv_is_allocated_above().
#pragma once

#include <vector>

#include "block/node.hpp"

namespace tidemark {

struct BlockStatus {
  Range range;                  // 0 < length <= what was asked for
  bool data = false;            // holds data that was written
  bool zero = false;            // reads as zeroes
  bool allocated = false;       // decided by one of the layers looked at, not by what is below
  std::uint32_t depth = 0;      // which layer decided: 1 for the top; 0 for none
  std::optional<std::uint64_t> host_offset;
  BlockNode* host = nullptr;    // the node that host_offset is in
};

// Layers from `top` down to, not including, `base` (null: the whole chain).  Filters are seen
// through and count as no layer.
Task<BlockStatus> block_status_above(BlockNode& top, BlockNode* base, Range wanted);

// The node that filters show, below any number of them.
BlockNode& skip_filters(BlockNode& node) noexcept;

// The images that stand on the node, or on filters that show it.
std::vector<BlockNode*> overlays_on(const BlockNode& node);

}  // namespace tidemark
