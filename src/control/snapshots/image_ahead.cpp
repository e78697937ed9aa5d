#include "control/snapshots/image_ahead.hpp"

#include "control/nodes/images_made.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

// On the node's thread.

Task<BlockNode*> open_image(const ImageWanted& wanted) {
  Graph& graph = wanted.place->graph;
  if (wanted.overlay) return open_overlay_file(graph, wanted.path, wanted.format, *wanted.overlay);
  return open_image_file(graph, wanted.path, wanted.format);
}

// What it keeps may be another node by now.
Task<> release_kept(std::unique_ptr<Edge>& kept) {
  BlockNode& node = kept->node();
  kept.reset();
  co_await node.graph().release(node);
}

}  // namespace

Task<> ImageAhead::make(ImageWanted wanted) {
  if (wanted.is_new) {
    const auto replaced = co_await check_overwritable(homes_.main().reactor, wanted.path).result();
    if (!replaced || *replaced == Replaced::content) co_return;
  }
  (void)co_await take(std::move(wanted)).result();
}

Task<BlockNode*> ImageAhead::take(ImageWanted wanted) {
  if (wanted_ != wanted) {
    co_await let_go();
    wanted_ = std::move(wanted);
    made_ = co_await open().result();
  }
  co_await unwrap(made_);
  co_return node_;
}

// Content that was there before is not brought back: what was in it is gone, as it is once it is asked for.
Task<> ImageAhead::make_file(const ImageWanted& wanted) {
  Place& place = *wanted.place;
  CreatedFile created =
      co_await homes_.at(place, create_overlay_file(place.graph, wanted.path, wanted.format, wanted.size, wanted.below));
  const bool ours_already = created_ && created_->device == created.device && created_->inode == created.inode;
  if (!ours_already) created_ = std::move(created);
  if (wanted.overlay) co_await remove_store_left_over(homes_.main().reactor, wanted.path);
}

Task<> ImageAhead::open() {
  const ImageWanted& wanted = *wanted_;
  Place& place = *wanted.place;
  if (wanted.is_new) co_await make_file(wanted);
  const auto tried = co_await homes_.at(place, open_image(wanted)).result();
  if (!tried && created_) leave_if_taken(*created_, tried.error());
  BlockNode* opened = co_await unwrap(tried);
  kept_ = co_await homes_.at(place, keep_overlay(*opened));
  node_ = opened;
}

Task<> ImageAhead::let_go() {
  node_ = nullptr;
  if (kept_) (void)co_await homes_.at(*wanted_->place, release_kept(kept_)).result();
}

Task<> ImageAhead::hand_over() {
  created_.reset();
  co_await let_go();
}

// A node that is pinned is closed first: it would write to what is taken back, and holds it.
Task<> ImageAhead::undo() {
  co_await let_go();
  auto created = std::exchange(created_, std::nullopt);
  if (!created) co_return;
  co_await homes_.unpin();
  (void)co_await undo_create_file(homes_.main().reactor, *std::move(created)).result();
}

}  // namespace tidemark
