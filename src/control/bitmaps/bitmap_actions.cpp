#include "control/bitmaps/bitmap_actions.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "block/checkpoints.hpp"
#include "block/status.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark {

Task<std::uint32_t> default_granularity(BlockNode& node) {
  auto info = co_await node.driver().info().result();
  if (!info || !info->cluster_size) co_return 64 * KiB;
  co_return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(*info->cluster_size, 4 * KiB, 64 * KiB));
}

Task<> prepare_persistent(BlockNode& node, const schema::BlockDirtyBitmapAdd& arguments, std::uint32_t granularity) {
  co_await unwrap(check_storable(node, arguments.name, arguments.granularity.value_or(granularity)));
  co_await ensure_tracking(node);
}

Result<> add_bitmap(Graph& graph, const schema::BlockDirtyBitmapAdd& arguments, std::uint32_t granularity,
                    Transaction& transaction) {
  auto node = graph.lookup(arguments.node);
  if (!node) return node.error();
  TM_ASSERT(!arguments.persistent || (*node)->tracking());
  if (checkpoint_of(arguments.name)) return Error(Errc::invalid_argument, "Bitmap name is a checkpoint's: " + arguments.name);
  NodeBitmaps& bitmaps = (*node)->bitmaps();
  auto added = bitmaps.add(arguments.name, (*node)->size(), arguments.granularity.value_or(granularity));
  if (!added) return added.error();
  NodeBitmap* bitmap = *added;
  bitmap->set_enabled(!arguments.disabled);
  bitmap->set_persistent(arguments.persistent);
  bitmap->set_follows(arguments.follows_disk);
  if (bitmap->enabled()) bitmap->keep_all();
  transaction.on_commit([bitmap] { bitmap->release_kept(); });
  transaction.on_abort([&bitmaps, bitmap] { (void)bitmaps.remove(*bitmap); });
  return {};
}

Result<> remove_bitmap(Graph& graph, const schema::BlockDirtyBitmap& arguments, Transaction& transaction) {
  auto found = find_bitmap(graph, arguments.node, arguments.name);
  if (!found) return found.error();
  if (auto usable = check_bitmap(*found->bitmap, BitmapUse::allow_inconsistent); !usable) return usable;
  // Out of sight for what follows in the transaction; forgotten when it takes effect.
  NodeBitmaps& bitmaps = found->node->bitmaps();
  NodeBitmap* bitmap = found->bitmap;
  retire_bitmap(bitmaps, *bitmap, transaction);
  return {};
}

void retire_bitmap(NodeBitmaps& bitmaps, NodeBitmap& bitmap, Transaction& transaction) {
  bitmaps.retire(bitmap);
  transaction.on_commit([&bitmaps, &bitmap] {
    if (bitmap.persistent()) bitmap.leave();
    else bitmaps.bury(bitmap);
  });
  transaction.on_abort([&bitmaps, &bitmap] { bitmaps.revive(bitmap); });
}

Result<> clear_bitmap(Graph& graph, const schema::BlockDirtyBitmap& arguments, Transaction& transaction) {
  auto found = find_bitmap(graph, arguments.node, arguments.name);
  if (!found) return found.error();
  if (auto usable = check_bitmap(*found->bitmap, BitmapUse::modify); !usable) return usable;
  NodeBitmap* bitmap = found->bitmap;
  auto old = std::make_shared<DirtyBitmap>(bitmap->clear());
  transaction.on_commit([bitmap] { bitmap->release_kept(); });
  found->node->bitmaps().begun();
  transaction.on_abort([bitmap, old] {
    bitmap->bits().merge(*old);            // old ∪ since
    bitmap->release_kept();
  });
  return {};
}

Result<> enable_bitmap(Graph& graph, const schema::BlockDirtyBitmap& arguments, bool enabled, Transaction& transaction) {
  auto found = find_bitmap(graph, arguments.node, arguments.name);
  if (!found) return found.error();
  if (auto usable = check_bitmap(*found->bitmap, BitmapUse::modify); !usable) return usable;
  NodeBitmap* bitmap = found->bitmap;
  transaction.on_abort([bitmap, before = bitmap->enabled()] {
    bitmap->set_enabled(before);
    bitmap->release_kept();
  });
  if (enabled && !bitmap->enabled()) bitmap->keep_all();
  bitmap->set_enabled(enabled);
  transaction.on_commit([bitmap] { bitmap->release_kept(); });
  found->node->bitmaps().begun();
  return {};
}

namespace {

Result<FoundBitmap> find_source(Graph& graph, const std::string& node, const schema::BlockDirtyBitmapOrStr& source) {
  if (const auto* local = std::get_if<std::string>(&source.value)) return find_bitmap(graph, node, *local);
  const auto& external = std::get<schema::BlockDirtyBitmap>(source.value);
  return find_bitmap(graph, external.node, external.name);
}

Result<std::optional<DirtyBitmap>> bits_since(BlockNode& disk, const std::optional<std::string>& checkpoint) {
  if (!checkpoint) return std::optional<DirtyBitmap>();
  const auto all = checkpoints_in(skip_filters(disk).bitmaps());
  const auto from = find_checkpoint(all, *checkpoint);
  if (from == all.end())
    return Error(Errc::not_found, fmt::format("Checkpoint '{}' not found on node '{}'", *checkpoint, disk.name()));
  auto written = written_since(all, from);
  if (!written) return written.error();
  return std::optional<DirtyBitmap>(*std::move(written));
}

Task<DirtyBitmap> copy_bits(Graph& graph, const schema::BlockDirtyBitmap& source) {
  const FoundBitmap found = co_await unwrap(find_bitmap(graph, source.node, source.name));
  co_await unwrap(check_bitmap(*found.bitmap, BitmapUse::read));
  co_return found.bitmap->bits().clone();
}

}  // namespace

const std::string* source_node(const schema::BlockDirtyBitmapOrStr& source) {
  const auto* external = std::get_if<schema::BlockDirtyBitmap>(&source.value);
  return external ? &external->node : nullptr;
}

Task<ForeignBits> copy_foreign_sources(Homes& homes, const schema::BlockDirtyBitmapMerge& arguments, const Place& place) {
  ForeignBits all;
  for (const auto& source : arguments.bitmaps) {
    all.emplace_back();
    const std::string* node = source_node(source);
    Place* there = nullptr;
    if (node) there = co_await homes.find(*node);
    if (!there || there == &place) continue;
    DirtyBitmap bits = co_await homes.at(*there, copy_bits(there->graph, std::get<schema::BlockDirtyBitmap>(source.value)));
    all.back().emplace(std::move(bits));
  }
  co_return std::move(all);
}

Result<> merge_bitmaps(Graph& graph, const schema::BlockDirtyBitmapMerge& arguments, const ForeignBits& foreign,
                       Transaction& transaction) {
  auto target = find_bitmap(graph, arguments.node, arguments.target);
  if (!target) return target.error();
  if (auto usable = check_bitmap(*target->bitmap, BitmapUse::modify); !usable) return usable;
  NodeBitmap* bitmap = target->bitmap;
  std::vector<const DirtyBitmap*> sources;
  for (std::size_t i = 0; i < arguments.bitmaps.size(); ++i) {
    const DirtyBitmap* bits = foreign[i] ? &*foreign[i] : nullptr;
    if (!bits) {
      auto found = find_source(graph, arguments.node, arguments.bitmaps[i]);
      if (!found) return found.error();
      if (auto usable = check_bitmap(*found->bitmap, BitmapUse::read); !usable) return usable;
      bits = &found->bitmap->bits();
    }
    if (bits->size() != bitmap->bits().size())
      return Error(Errc::invalid_argument,
                   fmt::format("Bitmaps are of different sizes (destination size is {}) and can't be merged", bitmap->bits().size()));
    sources.push_back(bits);
  }
  auto since = bits_since(*target->node, arguments.since);
  if (!since) return since.error();
  if (*since) sources.push_back(&**since);
  auto old = std::make_shared<DirtyBitmap>(bitmap->bits().clone());
  for (const DirtyBitmap* source : sources) bitmap->merge(*source);
  transaction.on_abort([bitmap, old] {
    old->truncate(bitmap->bits().size());
    bitmap->bits() = std::move(*old);
  });
  return {};
}

}  // namespace tidemark
