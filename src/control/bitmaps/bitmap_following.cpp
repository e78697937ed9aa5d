#include "control/bitmaps/bitmap_following.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "block/status.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

using Bitmaps = std::vector<std::shared_ptr<NodeBitmap>>;

void collect(BlockNode& node, Bitmaps& found) {
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->follows()) found.push_back(bitmap);
}

// A disk's bitmaps are those of its image and of filters on it.
Bitmaps following(BlockNode& disk) {
  Bitmaps found;
  for (BlockNode* at = &disk; at; at = at->filtered()) collect(*at, found);
  return found;
}

bool any_persistent(const Bitmaps& bitmaps) {
  return std::any_of(bitmaps.begin(), bitmaps.end(), [](const auto& bitmap) { return bitmap->persistent(); });
}

Error cannot_follow(const NodeBitmap& bitmap, const BlockNode& to, const Error& why) {
  return Error(why.code(), fmt::format("Bitmap '{}' cannot follow the disk to node '{}': {}", bitmap.name(), to.name(), why.message()));
}

Error in_group(const NodeBitmap& bitmap, const BlockNode& to) {
  return cannot_follow(bitmap, to, Error(Errc::busy, "it is part of a transaction whose jobs have not ended"));
}

// A node that can keep it.
Task<> make_room(const NodeBitmap& bitmap, BlockNode& to) {
  const auto unclaimed = to.bitmaps().check_unclaimed(bitmap.name());
  if (!unclaimed) co_await cannot_follow(bitmap, to, unclaimed.error());
  if (!bitmap.persistent()) co_return;
  Result<> ready;
  if (!to.bitmaps().find(bitmap.name())) ready = check_storable(to, bitmap.name(), bitmap.granularity());
  if (ready) ready = co_await ensure_tracking(to).result();
  if (!ready) co_await cannot_follow(bitmap, to, ready.error());
}

// What the one disk is longer than the other counts as changed.
void mark_beyond(NodeBitmap& bitmap, std::uint64_t end) {
  const std::uint64_t size = bitmap.bits().size();
  if (size > end) bitmap.bits().set({end, size - end});
}

// One that is left over of an image that was in the same place before.
bool is_left_over(const NodeBitmap* bitmap) { return bitmap && bitmap->inconsistent() && !bitmap->busy() && !bitmap->read_only(); }

NodeBitmap& add_copy(const NodeBitmap& bitmap, BlockNode& to, Transaction& undo) {
  auto copy = std::make_shared<NodeBitmap>(bitmap.name(), to.size(), static_cast<std::uint32_t>(bitmap.granularity()));
  NodeBitmap* added = copy.get();
  added->become(bitmap);
  NodeBitmaps& bitmaps = to.bitmaps();
  bitmaps.insert(std::move(copy));
  undo.on_commit([added] { added->release_kept(); });
  undo.on_abort([&bitmaps, added] { (void)bitmaps.remove(*added); });
  return *added;
}

// What the overlay holds already changes the disk when it is put on top.
Task<> mark_held(BlockNode& overlay, const std::vector<NodeBitmap*>& bitmaps) {
  const Range disk{0, overlay.size()};
  for (std::uint64_t at = 0; at < disk.end();) {
    const Range rest{at, disk.end() - at};
    const BlockStatus status = co_await block_status_above(overlay, overlay.backing(), rest);
    at = status.range.end();
    if (!status.allocated) continue;
    for (NodeBitmap* bitmap : bitmaps) bitmap->bits().set(status.range);
  }
}

// A bitmap of that name is from before the overlay was made, or was replaced there: what the disk's says is what counts.
// But one that recorded what was brought here is better than one that cannot be believed.
void bring(const NodeBitmap& bitmap, BlockNode& to, std::uint64_t end, Transaction& undo) {
  NodeBitmap* there = to.bitmaps().find(bitmap.name());
  if (!there) return mark_beyond(add_copy(bitmap, to, undo), end);
  if (bitmap.inconsistent()) return;
  auto before = std::make_shared<DirtyBitmap>(there->bits().clone());
  undo.on_abort([there, before, enabled = there->enabled(), why = there->inconsistent_reason()] {
    there->bits().merge(*before);
    there->set_enabled(enabled);
    there->set_inconsistent(why);
  });
  there->become(bitmap);
  mark_beyond(*there, end);
  to.bitmaps().begun();
  undo.on_commit([there] { there->release_kept(); });
}

// It was taken along by a snapshot, and removed from the disk since.
bool is_over(const NodeBitmap& bitmap, const Bitmaps& of_disk) {
  const auto named = [&](const auto& other) { return other->name() == bitmap.name(); };
  return bitmap.follows() && bitmap.carried() && !bitmap.busy() && std::none_of(of_disk.begin(), of_disk.end(), named);
}

void leave(NodeBitmaps& bitmaps, NodeBitmap& bitmap) {
  if (!bitmap.persistent()) return (void)bitmaps.remove(bitmap);
  bitmaps.retire(bitmap);
  bitmap.leave();
}

Task<> bring_all(const Bitmaps& bitmaps, std::uint64_t end, BlockNode& to) {
  for (const auto& bitmap : bitmaps) {
    if (bitmap->in_group()) co_await in_group(*bitmap, to);
    const NodeBitmap* there = to.bitmaps().find(bitmap->name());
    if (there && (there->busy() || there->in_group()))
      co_await cannot_follow(*bitmap, to, Error(Errc::busy, "one of that name there is in use"));
    co_await make_room(*bitmap, to);
  }
  Transaction undo;
  for (const auto& bitmap : bitmaps) bring(*bitmap, to, end, undo);
  const Result<> saved = co_await save_tracking(to).result();
  if (!saved) {
    undo.abort();
    co_await saved.error();
  }
  undo.commit();
}

}  // namespace

Task<> prepare_to_follow(BlockNode& from, BlockNode& to) {
  if (any_persistent(following(from))) co_await ensure_tracking(to);
}

Task<> continue_bitmaps(BlockNode& node, BlockNode& overlay, Transaction& undo) {
  const Bitmaps bitmaps = following(node);
  if (bitmaps.empty()) co_return;
  std::vector<NodeBitmap*> added;
  for (const auto& bitmap : bitmaps) {
    if (bitmap->in_group()) co_await in_group(*bitmap, overlay);
    NodeBitmap* there = overlay.bitmaps().find(bitmap->name());
    if (is_left_over(there)) (void)overlay.bitmaps().remove(*there);
    else if (there)
      co_await cannot_follow(*bitmap, overlay, Error(Errc::exists, "it has one of that name"));
    co_await make_room(*bitmap, overlay);
    added.push_back(&add_copy(*bitmap, overlay, undo));
    mark_beyond(*added.back(), node.size());
    undo.on_commit([bitmap] { bitmap->set_carried(true); });
  }
  co_await mark_held(overlay, added);
  overlay.remember_size(node.size_largest());
}

Task<> bring_following_bitmaps(BlockNode& from, BlockNode& to) {
  BlockNode& image = skip_filters(to);
  const Bitmaps bitmaps = following(from);
  image.remember_size(from.size_largest());
  co_await bring_all(bitmaps, from.size(), image);
  Bitmaps there;
  collect(image, there);
  const auto stays = [&](const auto& bitmap) { return !is_over(*bitmap, bitmaps); };
  there.erase(std::remove_if(there.begin(), there.end(), stays), there.end());
  for (const auto& bitmap : there) leave(image.bitmaps(), *bitmap);
  if (!there.empty()) co_await forget_dropped(image);
}

Task<> forget_following_bitmaps(BlockNode& from) {
  for (BlockNode* at = &from; at; at = at->filtered()) co_await forget_dropped(*at);
}

void drop_following_bitmaps(BlockNode& from) noexcept {
  for (BlockNode* at = &from; at; at = at->filtered()) {
    Bitmaps there;
    collect(*at, there);
    for (const auto& bitmap : there)
      if (!bitmap->busy() && !at->read_only()) leave(at->bitmaps(), *bitmap);
  }
}

}  // namespace tidemark
