#include "control/commands/bitmap_commands.hpp"

#include <algorithm>

#include "control/bitmaps/bitmap_actions.hpp"
#include "control/bitmaps/sha256.hpp"
#include "control/bitmaps/suspicion.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

// On the node's thread.  Nothing happens between an action and its commit, and what is under way marks
// bitmaps that begin meanwhile when it ends, so without persistent bitmaps no drain is needed; with them,
// what is not recorded must be on the disk when the bitmaps' store is saved.
//
// What only loses marks has happened then, whether or not the store can forget them yet: that does no harm.
enum class Saving : std::uint8_t { none, needed, tried };

// Of a bitmap that is there: the store of others has nothing to do with one that is not persistent.
Saving if_persistent(Graph& graph, const std::string& node, const std::string& name, Saving saving) {
  const auto found = find_bitmap(graph, node, name);
  return found && found->bitmap->persistent() ? saving : Saving::none;
}

// One that follows its disk may have gone to another node with it, and is durable there: what its first node could not save is of no
// matter then.
bool is_there(BlockNode& node, const NodeBitmap& bitmap) {
  const auto is_it = [&](const auto& there) { return there.get() == &bitmap; };
  return std::ranges::any_of(node.bitmaps().all(), is_it);
}

template <class Action>
Task<> carry_out(Graph& graph, const std::string& name, Saving saving, Action action) {
  BlockNode* node = co_await unwrap(graph.lookup(name));
  {
    const auto turn = co_await graph.bitmap_changes().lock();
    std::vector<Graph::DrainGuard> drained;
    if (saving != Saving::none && node->tracking()) drained.push_back(co_await graph.drain_within(*node));
    Transaction transaction;
    co_await unwrap(action(transaction));
    transaction.commit();
  }
  if (saving == Saving::needed) co_await save_tracking(*node);
  if (saving == Saving::tried) co_await forget_dropped(*node);
}

Task<> add(Graph& graph, const schema::BlockDirtyBitmapAdd& arguments) {
  BlockNode* node = co_await unwrap(graph.lookup(arguments.node));
  const std::uint32_t granularity = co_await default_granularity(*node);
  if (arguments.persistent) co_await prepare_persistent(*node, arguments, granularity);
  std::shared_ptr<NodeBitmap> bitmap;
  const auto action = [&](Transaction& transaction) {
    const Result<> added = add_bitmap(graph, arguments, granularity, transaction);
    if (added) bitmap = node->bitmaps().find(arguments.name)->shared_from_this();
    return added;
  };
  const Saving saving = arguments.persistent ? Saving::needed : Saving::none;
  const Result<> saved = co_await carry_out(graph, arguments.node, saving, action).result();
  if (saved || (bitmap && !is_there(*node, *bitmap))) co_return;
  if (bitmap) (void)node->bitmaps().remove(*bitmap);
  co_await saved.error();
}

Task<> remove(Graph& graph, const schema::BlockDirtyBitmap& arguments) {
  const auto action = [&](Transaction& transaction) { return remove_bitmap(graph, arguments, transaction); };
  const Saving saving = if_persistent(graph, arguments.node, arguments.name, Saving::tried);
  co_await carry_out(graph, arguments.node, saving, action);
}

Task<> clear(Graph& graph, const schema::BlockDirtyBitmap& arguments) {
  const auto action = [&](Transaction& transaction) { return clear_bitmap(graph, arguments, transaction); };
  const Saving saving = if_persistent(graph, arguments.node, arguments.name, Saving::tried);
  co_await carry_out(graph, arguments.node, saving, action);
}

Task<> set_enabled(Graph& graph, const schema::BlockDirtyBitmap& arguments, bool enabled) {
  const auto found = find_bitmap(graph, arguments.node, arguments.name);
  const auto bitmap = found ? found->bitmap->shared_from_this() : nullptr;
  bool begun = false;
  const auto action = [&](Transaction& transaction) {
    const bool begins = enabled && bitmap && !bitmap->enabled();
    const Result<> done = enable_bitmap(graph, arguments, enabled, transaction);
    begun = begins && done;
    return done;
  };
  const Saving saving = if_persistent(graph, arguments.node, arguments.name, enabled ? Saving::needed : Saving::tried);
  const Result<> done = co_await carry_out(graph, arguments.node, saving, action).result();
  if (done || (begun && !is_there(*found->node, *bitmap))) co_return;
  if (begun) bitmap->set_enabled(false);
  co_await done.error();
}

Task<> merge(Graph& graph, const schema::BlockDirtyBitmapMerge& arguments, const ForeignBits& foreign) {
  const auto action = [&](Transaction& transaction) { return merge_bitmaps(graph, arguments, foreign, transaction); };
  const Saving saving = if_persistent(graph, arguments.node, arguments.target, Saving::needed);
  co_await carry_out(graph, arguments.node, saving, action);
}

Task<std::string> sha256(Graph& graph, const schema::BlockDirtyBitmap& arguments) {
  const FoundBitmap found = co_await unwrap(find_bitmap(graph, arguments.node, arguments.name));
  co_return co_await unwrap(sha256_of_bitmap(found.bitmap->bits()));
}

}  // namespace

Task<> BitmapCommandHandler::block_dirty_bitmap_add(schema::BlockDirtyBitmapAdd arguments) {
  Place* place = co_await homes_.lookup(arguments.node);
  co_await homes_.at(*place, add(place->graph, arguments));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_remove(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  co_await homes_.at(*place, remove(place->graph, arguments));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_clear(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  co_await homes_.at(*place, clear(place->graph, arguments));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_enable(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  co_await homes_.at(*place, set_enabled(place->graph, arguments, true));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_disable(schema::BlockDirtyBitmap arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  co_await homes_.at(*place, set_enabled(place->graph, arguments, false));
}

Task<> BitmapCommandHandler::block_dirty_bitmap_merge(schema::BlockDirtyBitmapMerge arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  const ForeignBits foreign = co_await copy_foreign_sources(homes_, arguments, *place);
  co_await homes_.at(*place, merge(place->graph, arguments, foreign));
}

Task<schema::BlockDirtyBitmapSuspicion> BitmapCommandHandler::block_dirty_bitmap_clear_suspected(
    schema::BlockDirtyBitmapClearSuspected arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  co_return co_await homes_.at(*place, clear_suspected(place->graph, arguments));
}

Task<schema::BlockDirtyBitmapSha256> BitmapCommandHandler::x_debug_block_dirty_bitmap_sha256(
    schema::BlockDirtyBitmap arguments) {
  Place* place = co_await find_place_of_bitmap(homes_, arguments.node);
  schema::BlockDirtyBitmapSha256 answer;
  answer.sha256 = co_await homes_.at(*place, sha256(place->graph, arguments));
  co_return answer;
}

}  // namespace tidemark
