// The commands on dirty bitmaps: each one a transaction of a single action.
#pragma once

#include "block/graph.hpp"
#include "control/commands/bitmap.hpp"

namespace tidemark {

class BitmapCommandHandler final : public BitmapCommands {
 public:
  explicit BitmapCommandHandler(Graph& graph) : graph_(graph) {}
  Task<> block_dirty_bitmap_add(schema::BlockDirtyBitmapAdd arguments) override;
  Task<> block_dirty_bitmap_remove(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_clear(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_enable(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_disable(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_merge(schema::BlockDirtyBitmapMerge arguments) override;
  Task<schema::BlockDirtyBitmapSha256> x_debug_block_dirty_bitmap_sha256(schema::BlockDirtyBitmap arguments) override;

 private:
  Graph& graph_;
};

}  // namespace tidemark
