#include "block/status.hpp"

#include <algorithm>
#include <utility>

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

enum class Layer : std::uint8_t { any, held };

// Where a layer shows old data it is held from before it is asked until all that is below it has said what it has.
Task<BlockStatus> status_from(BlockNode* layer, BlockNode* stop, Range wanted, std::uint32_t depth, Layer first) {
  for (; layer && layer != stop; ++depth) {
    InFlight in_flight(*layer);
    if (std::exchange(first, Layer::any) == Layer::any && layer->shows_old_data()) {
      auto asking = layer->hold_old_data(wanted);
      co_await asking;
      co_return co_await status_from(layer, stop, wanted, depth, Layer::held);
    }
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

}  // namespace

Task<BlockStatus> block_status_above(BlockNode& top, BlockNode* base, Range wanted) {
  BlockNode* const stop = base ? &skip_filters(*base) : nullptr;
  return status_from(&skip_filters(top), stop, wanted, 1, Layer::any);
}

}  // namespace tidemark
