#include "control/bitmaps/bitmap_change.hpp"

#include <algorithm>

#include "control/nodes/tracking_stores.hpp"

namespace tidemark {

BitmapChange::~BitmapChange() { TM_ASSERT(!edge_); }

Task<> BitmapChange::begin(BlockNode& node) {
  if (group_ == 0) co_return;
  const Permissions nothing{Permissions::none, Permissions::all};
  edge_ = co_await unwrap(Edge::attach(node, Role::root, nothing, "a transaction whose jobs have not ended"));
}

void BitmapChange::touch(NodeBitmap& bitmap) {
  if (group_ == 0) return;
  held_.push_back({bitmap.shared_from_this(), bitmap.enabled()});
  bitmap.hold_for_group(group_, bitmap.enabled());
}

Task<> BitmapChange::take_effect() {
  if (group_ == 0) steps_.commit();
  for (const Held& held : held_) held.bitmap->complete_group();
  co_return;
}

Task<> BitmapChange::undo() {
  take_back();
  held_.clear();
  co_await let_go();
}

// What was recorded beside them since is among what they hold again.
void BitmapChange::take_back() {
  steps_.abort();
  for (auto held = held_.rbegin(); held != held_.rend(); ++held) {
    NodeBitmap& bitmap = *held->bitmap;
    if (held->was_recording && bitmap.recorder()) bitmap.bits().merge(*bitmap.recorder());
    bitmap.end_group();
  }
}

// What it keeps may be another node by now.
Task<> BitmapChange::let_go() {
  if (!edge_) co_return;
  BlockNode& node = edge_->node();
  edge_.reset();
  (void)co_await node.graph().release(node).result();
}

Task<> BitmapChange::end(bool well) { return homes_.at(place_, finish(well)); }

BlockNode* BitmapChange::find_owner() const {
  if (held_.empty()) return nullptr;
  const auto is_it = [this](const auto& bitmap) { return bitmap == held_.front().bitmap; };
  for (const auto& node : place_.graph.nodes())
    for (const auto* bitmaps : {&node->bitmaps().all(), &node->bitmaps().retired()})
      if (std::any_of(bitmaps->begin(), bitmaps->end(), is_it)) return node.get();
  return nullptr;
}

// Of a node that is gone the store has it all.
Task<> BitmapChange::finish(bool well) {
  BlockNode* owner = find_owner();
  if (well || !owner) {
    if (owner) steps_.commit();
    else steps_.forget();
    for (const Held& held : held_) held.bitmap->end_group();
  } else {
    take_back();
    owner->bitmaps().begun();
    for (const Held& held : held_)
      if (!held.bitmap->in_group()) held.bitmap->release_kept();       // it has them again
  }
  held_.clear();
  if (owner && !well) co_await forget_dropped(*owner);
  co_await let_go();
}

}  // namespace tidemark
