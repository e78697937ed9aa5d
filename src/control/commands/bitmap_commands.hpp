// The commands on dirty bitmaps: each one a transaction of a single action.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/bitmap.hpp"

namespace tidemark {

class BitmapCommandHandler final : public BitmapCommands {
 public:
  explicit BitmapCommandHandler(Homes& homes) : homes_(homes) {}
  Task<> block_dirty_bitmap_add(schema::BlockDirtyBitmapAdd arguments) override;
  Task<> block_dirty_bitmap_remove(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_clear(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_enable(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_disable(schema::BlockDirtyBitmap arguments) override;
  Task<> block_dirty_bitmap_merge(schema::BlockDirtyBitmapMerge arguments) override;
  Task<schema::BlockDirtyBitmapSuspicion> block_dirty_bitmap_clear_suspected(
      schema::BlockDirtyBitmapClearSuspected arguments) override;
  Task<schema::BlockDirtyBitmapSha256> x_debug_block_dirty_bitmap_sha256(schema::BlockDirtyBitmap arguments) override;

 private:
  Homes& homes_;
};

}  // namespace tidemark
