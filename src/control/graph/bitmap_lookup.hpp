// Bitmaps as commands name them: by node and name.  Errors are QEMU's.
#pragma once

#include "block/graph.hpp"
#include "control/graph/homes.hpp"

namespace tidemark {

struct FoundBitmap {
  BlockNode* node;
  NodeBitmap* bitmap;
};
// What QEMU says where a bitmap is looked for, not a node.
Error no_such_node(const std::string& node);
// The place of a bitmap's node.
Task<Place*> find_place_of_bitmap(Homes& homes, std::string node);
Result<FoundBitmap> find_bitmap(Graph& graph, const std::string& node, const std::string& name);

}  // namespace tidemark
