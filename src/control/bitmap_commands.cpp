#include "control/bitmap_commands.hpp"

#include "control/bitmap_actions.hpp"
#include "control/sha256.hpp"

namespace tidemark {
namespace {

// Nothing happens between an action and its commit: no drain is needed.
Task<> carry_out(Result<> action, Transaction& transaction) {
  co_await unwrap(std::move(action));
  transaction.commit();
}

}  // namespace

Task<> BitmapCommandHandler::block_dirty_bitmap_add(schema::BlockDirtyBitmapAdd arguments) {
  BlockNode* node = co_await unwrap(graph_.lookup(arguments.node));
  const std::uint32_t granularity = co_await default_granularity(*node);
  Transaction transaction;
  co_await carry_out(add_bitmap(graph_, arguments, granularity, transaction), transaction);
}

Task<> BitmapCommandHandler::block_dirty_bitmap_remove(schema::BlockDirtyBitmap arguments) {
  Transaction transaction;
  co_await carry_out(remove_bitmap(graph_, arguments, transaction), transaction);
}

Task<> BitmapCommandHandler::block_dirty_bitmap_clear(schema::BlockDirtyBitmap arguments) {
  Transaction transaction;
  co_await carry_out(clear_bitmap(graph_, arguments, transaction), transaction);
}

Task<> BitmapCommandHandler::block_dirty_bitmap_enable(schema::BlockDirtyBitmap arguments) {
  Transaction transaction;
  co_await carry_out(enable_bitmap(graph_, arguments, true, transaction), transaction);
}

Task<> BitmapCommandHandler::block_dirty_bitmap_disable(schema::BlockDirtyBitmap arguments) {
  Transaction transaction;
  co_await carry_out(enable_bitmap(graph_, arguments, false, transaction), transaction);
}

Task<> BitmapCommandHandler::block_dirty_bitmap_merge(schema::BlockDirtyBitmapMerge arguments) {
  Transaction transaction;
  co_await carry_out(merge_bitmaps(graph_, arguments, transaction), transaction);
}

Task<schema::BlockDirtyBitmapSha256> BitmapCommandHandler::x_debug_block_dirty_bitmap_sha256(
    schema::BlockDirtyBitmap arguments) {
  const FoundBitmap found = co_await unwrap(find_bitmap(graph_, arguments.node, arguments.name));
  schema::BlockDirtyBitmapSha256 answer;
  answer.sha256 = sha256_of_bitmap(found.bitmap->bits());
  co_return answer;
}

}  // namespace tidemark
