#include "block/status.hpp"

#include <algorithm>

namespace tidemark {

BlockNode& skip_filters(BlockNode& node) noexcept {
  BlockNode* at = &node;
  while (BlockNode* below = at->filtered()) at = below;
  return *at;
}

std::vector<BlockNode*> overlays_on(const BlockNode& node) {
  std::vector<BlockNode*> overlays;
  for (const Edge* user : node.parents()) {
    if (user->role() == Role::backing && user->parent()) overlays.push_back(user->parent());
    if (user->role() != Role::filtered || !user->parent()) continue;
    const std::vector<BlockNode*> above = overlays_on(*user->parent());
    overlays.insert(overlays.end(), above.begin(), above.end());
  }
  return overlays;
}

namespace {

BlockStatus decided(BlockNode& node, const Extent& extent, std::uint32_t depth) {
  BlockStatus status;
  status.range = extent.range;
  status.data = extent.mapping == Mapping::data || extent.mapping == Mapping::compressed;
  status.zero = !status.data;
  status.allocated = true;
  status.depth = depth;
  if (extent.host_offset) {
    Edge* storage = node.child(Role::data_file);
    if (!storage) storage = node.child(Role::file);
    status.host_offset = extent.host_offset;
    status.host = storage ? &storage->node() : &node;
  }
  return status;
}

}  // namespace

Task<BlockStatus> block_status_above(BlockNode& top, BlockNode* base, Range wanted) {
  BlockNode* layer = &skip_filters(top);
  BlockNode* const stop = base ? &skip_filters(*base) : nullptr;
  for (std::uint32_t depth = 1; layer && layer != stop; ++depth) {
    InFlight in_flight(*layer);
    const std::uint64_t stored = layer->driver().size();
    if (wanted.offset >= stored)       // below a longer layer: reads as zeroes from here on
      co_return BlockStatus{wanted, false, true, true, depth, {}, nullptr};
    wanted.length = std::min(wanted.length, stored - wanted.offset);
    const Extent extent = co_await layer->driver().map(wanted);
    if (extent.mapping != Mapping::below) co_return decided(*layer, extent, depth);
    wanted = extent.range;
    BlockNode* below = layer->backing();
    layer = below ? &skip_filters(*below) : nullptr;
  }
  co_return BlockStatus{wanted, false, layer == nullptr, false, 0, {}, nullptr};
}

}  // namespace tidemark
