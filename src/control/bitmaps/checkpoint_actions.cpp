#include "control/bitmaps/checkpoint_actions.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "block/status.hpp"
#include "control/bitmaps/bitmap_actions.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {
namespace {

schema::BlockDirtyBitmapAdd bitmap_to_add(const BlockNode& image, const schema::CheckpointCreate& arguments, std::uint64_t taken) {
  schema::BlockDirtyBitmapAdd add;
  add.node = image.name();
  add.name = CheckpointName{taken, arguments.name}.bitmap();
  add.granularity = arguments.granularity;
  add.persistent = arguments.persistent;
  return add;
}

void set_recording(NodeBitmaps& bitmaps, NodeBitmap& bitmap, bool records, Transaction& transaction) {
  if (bitmap.enabled() == records) return;
  bitmap.set_enabled(records);
  bitmaps.begun();
  transaction.on_abort([&bitmap, records] { bitmap.set_enabled(!records); });
}

Result<> check_changeable(const Checkpoint& checkpoint) {
  if (checkpoint.bitmap->busy() || checkpoint.bitmap->in_group())
    return Error(Errc::busy, fmt::format("Checkpoint '{}' is currently in use by another operation", checkpoint.name.name));
  if (checkpoint.bitmap->read_only())
    return Error(Errc::permission, fmt::format("Checkpoint '{}' is readonly and cannot be modified", checkpoint.name.name));
  return {};
}

// Of one that cannot be believed anything may have been written in its time.
void take_over(NodeBitmaps& bitmaps, const NodeBitmap& bitmap, NodeBitmap& parent, Transaction& transaction) {
  auto old = std::make_shared<DirtyBitmap>(parent.bits().clone());
  transaction.on_abort([&parent, old] {
    old->truncate(parent.bits().size());
    parent.bits() = std::move(*old);
  });
  if (bitmap.inconsistent()) parent.bits().set_all();
  else parent.bits().merge(bitmap.bits());
  if (bitmap.suspected()) parent.suspect(*bitmap.suspected());
  set_recording(bitmaps, parent, parent.enabled() || bitmap.enabled(), transaction);
}

// The images that stand on a node, through filters.
void collect_overlays(const BlockNode& node, std::vector<BlockNode*>& found) {
  for (const Edge* user : node.parents()) {
    if (!user->parent()) continue;
    if (user->role() == Role::backing) found.push_back(user->parent());
    if (user->role() == Role::filtered) collect_overlays(*user->parent(), found);
  }
}

// An overlay, when the node is there for overlays only.
const BlockNode* only_below(const BlockNode& image) {
  const auto& users = image.parents();
  const auto is_overlay = [](const Edge* user) { return user->parent() && user->role() == Role::backing; };
  const bool all = !users.empty() && std::all_of(users.begin(), users.end(), is_overlay);
  return all ? users.front()->parent() : nullptr;
}

schema::CheckpointDisk describe(const BlockNode& image, const std::vector<Checkpoint>& all,
                                std::vector<Checkpoint>::const_iterator at) {
  const NodeBitmap& bitmap = *at->bitmap;
  schema::CheckpointDisk disk;
  disk.node = image.name();
  disk.bitmap = bitmap.name();
  if (at != all.begin()) disk.parent = std::prev(at)->name.name;
  disk.recording = bitmap.recording();
  disk.persistent = bitmap.persistent();
  disk.written = static_cast<std::int64_t>(bitmap.dirty_bytes());
  if (const auto written = written_since(all, at)) disk.since = static_cast<std::int64_t>(written->dirty_bytes());
  if (bitmap.inconsistent()) disk.inconsistent_reason = bitmap.inconsistent_reason();
  return disk;
}

}  // namespace

Task<BlockNode*> find_disk_image(Graph& graph, std::string node) {
  BlockNode* disk = co_await unwrap(graph.lookup(node));
  co_return &skip_filters(*disk);
}

Task<> prepare_checkpoint(Graph& graph, std::string node, const schema::CheckpointCreate& arguments) {
  BlockNode* image = co_await find_disk_image(graph, std::move(node));
  if (arguments.persistent) co_await ensure_tracking_ahead(*image);
}

Task<> create_checkpoint(BlockNode& image, const schema::CheckpointCreate& arguments, std::uint64_t taken,
                         BitmapChange& change) {
  co_await unwrap(check_checkpoint_name(arguments.name));
  const auto before = checkpoints_in(image.bitmaps());
  if (!checkpoint_of(CheckpointName{taken, arguments.name}.bitmap()))
    co_await Error(Errc::out_of_range, fmt::format("Checkpoint '{}' cannot be taken: a disk has one already whose bitmap says that it "
                                                   "was taken at the latest time there is", arguments.name));
  if (find_checkpoint(before, arguments.name) != before.end())
    co_await Error(Errc::exists, fmt::format("Checkpoint '{}' of node '{}' already exists", arguments.name, image.name()));
  // It takes over recording, and is forgotten first.
  if (!arguments.persistent && !before.empty() && before.back().bitmap->persistent())
    co_await Error(Errc::invalid_argument,
                   fmt::format("Checkpoint '{}' of node '{}' has to be persistent: the one before it, '{}', is, and would miss "
                               "what is written from now on", arguments.name, image.name(), before.back().name.name));
  if (const BlockNode* overlay = only_below(image))
    co_await Error(Errc::busy, fmt::format("Node '{}' is a layer below '{}'; take the checkpoint of that", image.name(), overlay->name()));
  const std::uint32_t granularity = co_await default_granularity(image);
  const schema::BlockDirtyBitmapAdd add = bitmap_to_add(image, arguments, taken);
  if (add.persistent) co_await prepare_persistent(image, add, granularity);
  for (const Checkpoint& checkpoint : before) {
    if (!checkpoint.bitmap->enabled()) continue;
    if (auto ok = check_changeable(checkpoint); !ok) co_await ok.error();
    change.touch(*checkpoint.bitmap);
    set_recording(image.bitmaps(), *checkpoint.bitmap, false, change.steps());
  }
  NodeBitmap* bitmap = co_await unwrap(image.bitmaps().add(add.name, image.size(), add.granularity.value_or(granularity)));
  bitmap->set_persistent(add.persistent);
  bitmap->set_follows(true);
  bitmap->keep_all();
  change.steps().on_commit([bitmap] { bitmap->release_kept(); });
  change.steps().on_abort([&bitmaps = image.bitmaps(), bitmap] { (void)bitmaps.remove(*bitmap); });
  change.touch(*bitmap);
}

Result<> delete_checkpoint(BlockNode& image, const std::string& name, BitmapChange& change) {
  const auto all = checkpoints_in(image.bitmaps());
  const auto found = find_checkpoint(all, name);
  if (found == all.end()) return Error(Errc::not_found, fmt::format("Checkpoint '{}' not found on node '{}'", name, image.name()));
  if (auto ok = check_changeable(*found); !ok) return ok;
  if (found != all.begin()) {
    const Checkpoint& parent = *std::prev(found);
    if (auto ok = check_changeable(parent); !ok) return ok;
    change.touch(*parent.bitmap);
    take_over(image.bitmaps(), *found->bitmap, *parent.bitmap, change.steps());
  }
  change.touch(*found->bitmap);
  retire_bitmap(image.bitmaps(), *found->bitmap, change.steps());
  return {};
}

Task<std::uint64_t> next_time(BlockNode& image, std::uint64_t now) {
  for (const Checkpoint& checkpoint : checkpoints_in(image.bitmaps())) now = std::max(now, checkpoint.name.taken + 1);
  co_return now;
}

bool is_current(BlockNode& image, const Checkpoint& checkpoint) {
  std::vector<BlockNode*> overlays;
  collect_overlays(image, overlays);
  const bool carried = checkpoint.bitmap->carried();
  if (overlays.empty()) return !carried || !image.read_only();
  const auto has_it = [&](BlockNode* overlay) { return overlay->bitmaps().find(checkpoint.bitmap->name()) != nullptr; };
  return !image.read_only() && !carried && std::none_of(overlays.begin(), overlays.end(), has_it);
}

Task<std::vector<FoundCheckpoint>> describe_checkpoints(Graph& graph) {
  std::vector<FoundCheckpoint> found;
  for (const auto& node : graph.nodes()) {
    const auto all = checkpoints_in(node->bitmaps());
    for (auto at = all.begin(); at != all.end(); ++at)
      if (is_current(*node, *at)) found.push_back({at->name, describe(*node, all, at)});
  }
  co_return std::move(found);
}

}  // namespace tidemark
