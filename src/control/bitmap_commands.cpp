#include "control/bitmap_commands.hpp"

#include "control/bitmap_actions.hpp"
#include "control/sha256.hpp"

namespace tidemark {
namespace {

// On the node's thread.  Nothing happens between an action and its commit, and what is under way marks
// bitmaps that begin meanwhile when it ends: no drain is needed.
template <class Arguments>
Task<> carry_out(Result<> (*action)(Graph&, const Arguments&, Transaction&), Graph& graph, const Arguments& arguments) {
  Transaction transaction;
  co_await unwrap(action(graph, arguments, transaction));
  transaction.commit();
}

Task<> add(Graph& graph, const schema::BlockDirtyBitmapAdd& arguments) {
  BlockNode* node = co_await unwrap(graph.lookup(arguments.node));
  const std::uint32_t granularity = co_await default_granularity(*node);
  Transaction transaction;
  co_await unwrap(add_bitmap(graph, arguments, granularity, transaction));
  transaction.commit();
}

Task<> set_enabled(Graph& graph, const schema::BlockDirtyBitmap& arguments, bool enabled) {
  Transaction transaction;
  co_await unwrap(enable_bitmap(graph, arguments, enabled, transaction));
  transaction.commit();
}

Task<> merge(Graph& graph, const schema::BlockDirtyBitmapMerge& arguments, const ForeignBits& foreign) {
  Transaction transaction;
  co_await unwrap(merge_bitmaps(graph, arguments, foreign, transaction));
  transaction.commit();
}

Task<std::string> sha256(Graph& graph, const schema::BlockDirtyBitmap& arguments) {
  const FoundBitmap found = co_await unwrap(find_bitmap(graph, arguments.node, arguments.name));
  co_return sha256_of_bitmap(found.bitmap->bits());
}

}  // namespace

Task<> BitmapCommandHandler::block_dirty_bitmap_add(schema::BlockDirtyBitmapAdd arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  co_await homes_.at(*place, add(place->graph, arguments));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_remove(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  co_await homes_.at(*place, carry_out(remove_bitmap, place->graph, arguments));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_clear(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  co_await homes_.at(*place, carry_out(clear_bitmap, place->graph, arguments));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_enable(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  co_await homes_.at(*place, set_enabled(place->graph, arguments, true));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_disable(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  co_await homes_.at(*place, set_enabled(place->graph, arguments, false));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_merge(schema::BlockDirtyBitmapMerge arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  const ForeignBits foreign = co_await copy_foreign_sources(homes_, arguments, *place);
  co_await homes_.at(*place, merge(place->graph, arguments, foreign));
}

Task<schema::BlockDirtyBitmapSha256> BitmapCommandHandler::x_debug_block_dirty_bitmap_sha256(
    schema::BlockDirtyBitmap arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  schema::BlockDirtyBitmapSha256 answer;
  answer.sha256 = co_await homes_.at(*place, sha256(place->graph, arguments));
  co_return answer;
}

}  // namespace tidemark
