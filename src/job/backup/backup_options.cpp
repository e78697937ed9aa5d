#include "job/backup/backup_options.hpp"

#include <climits>

#include "block/checkpoints.hpp"
#include "block/graph.hpp"
#include "block/status.hpp"

namespace tidemark {
namespace {

Error refuse(std::string why) { return Error(Errc::invalid_argument, std::move(why)); }

Result<> check_perf(const BackupOptions::Perf& perf) {
  if (perf.max_workers < 1 || perf.max_workers > INT_MAX)
    return refuse("max-workers must be between 1 and 2147483647");
  if (perf.max_chunk < 0)
    return refuse("max-chunk must be zero (which means no limit) or positive");
  return {};
}

Result<> check_staging(const StageOptions& staging, const Workings& workings) {
  const auto allowed = [&](std::uint64_t bytes) {
    return bytes >= workings.staging_least && bytes <= StageOptions::most;
  };
  if (!allowed(staging.memory)) return refuse("staging-memory must be between 4 MiB and 4 TiB");
  if (!allowed(staging.budget)) return refuse("staging-budget must be between 4 MiB and 4 TiB");
  if (!staging.spill && !staging.directory.empty())
    return refuse("spill-directory makes no sense with spill=off");
  return {};
}

// The node of the bitmap.  What the layers above it hold was written after it had become a layer, so it is among the changes.
Result<BlockNode*> find_owner(BackupOptions& options) {
  BlockNode& source = *options.source;
  if (!options.bitmap_node) return &source;
  if (!options.bitmap) return refuse("'bitmap-node' makes no sense without 'bitmap'");
  auto owner = source.graph().lookup(*options.bitmap_node);
  if (!owner) return owner;
  std::vector<BlockNode*> layers;
  for (BlockNode* at = &source; at; at = at->driver().is_filter() ? at->filtered() : at->backing()) {
    layers.push_back(at);
    if (at != *owner) continue;
    const bool below = &skip_filters(*at) != &skip_filters(source);
    if (below && options.sync != SyncMode::bitmap && options.sync != SyncMode::incremental)
      return refuse("'bitmap-node' needs sync mode 'bitmap' or 'incremental'");
    if (below) options.layers = std::move(layers);
    return owner;
  }
  return refuse("Node '" + *options.bitmap_node + "' is not in the backing chain of '" + source.name() + "'");
}

Result<> find_written(BackupOptions& options) {
  if (options.bitmap || options.bitmap_node || options.bitmap_mode)
    return refuse("'since' and 'bitmap' cannot be specified at the same time");
  if (options.sync != SyncMode::bitmap && options.sync != SyncMode::incremental)
    return refuse("'since' needs sync mode 'incremental' or 'bitmap'");
  const auto all = checkpoints_in(skip_filters(*options.source).bitmaps());
  const auto from = find_checkpoint(all, *options.since);
  if (from == all.end())
    return Error(Errc::not_found, "Checkpoint '" + *options.since + "' not found on node '" + options.source->name() + "'");
  auto written = written_since(all, from);
  if (!written) return written.error();
  options.written = std::make_shared<const DirtyBitmap>(*std::move(written));
  return {};
}

// What is to be copied, where it is not everything.
Result<NodeBitmap*> choose_selection(BackupOptions& options) {
  if (options.since) {
    if (auto found = find_written(options); !found) return found.error();
    return static_cast<NodeBitmap*>(nullptr);
  }
  BitmapChoice choice{options.sync, options.bitmap, options.bitmap_mode};
  auto owner = find_owner(options);
  if (!owner) return owner.error();
  auto bitmap = choose_bitmap(**owner, choice);
  options.bitmap_mode = choice.mode;
  return bitmap;
}

}  // namespace

bool copies_all(SyncMode mode, BlockNode& source) noexcept {
  return mode == SyncMode::full || (mode == SyncMode::top && !skip_filters(source).backing());
}

std::string_view to_string(SyncMode mode) noexcept {
  constexpr std::string_view names[] = {"top", "full", "none", "incremental", "bitmap"};
  return names[static_cast<unsigned>(mode)];
}

std::string_view to_string(BitmapMode mode) noexcept {
  constexpr std::string_view names[] = {"on-success", "never", "always"};
  return names[static_cast<unsigned>(mode)];
}

Result<NodeBitmap*> choose_bitmap(BlockNode& node, BitmapChoice& choice) {
  const bool by_bitmap = choice.sync == SyncMode::bitmap || choice.sync == SyncMode::incremental;
  const auto mode = choice.mode;
  if (by_bitmap && !choice.name)
    return refuse("must provide a valid bitmap name for '" + std::string(to_string(choice.sync)) +
                  "' sync mode");
  if (choice.sync == SyncMode::incremental && mode && *mode != BitmapMode::on_success)
    return refuse("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'");
  if (choice.sync == SyncMode::incremental) choice.mode = BitmapMode::on_success;
  if (!choice.name && mode) return refuse("Cannot specify bitmap sync mode without a bitmap");
  if (!choice.name) return static_cast<NodeBitmap*>(nullptr);
  NodeBitmap* bitmap = node.bitmaps().find(*choice.name);
  if (!bitmap) return Error(Errc::not_found, "Bitmap '" + *choice.name + "' could not be found");
  if (!choice.mode) return refuse("Bitmap sync mode must be given when providing a bitmap");
  const auto use = choice.mode == BitmapMode::never ? BitmapUse::read : BitmapUse::modify;
  if (auto ok = check_bitmap(*bitmap, use); !ok) return ok.error();
  if (choice.sync == SyncMode::none)
    return refuse("sync mode 'none' does not produce meaningful bitmap outputs");
  if (!by_bitmap && choice.mode == BitmapMode::never)
    return refuse(
        "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '" +
        std::string(to_string(choice.sync)) + "'");
  return bitmap;
}

Result<NodeBitmap*> check_backup(BackupOptions& options) {
  auto bitmap = choose_selection(options);
  if (!bitmap) return bitmap;
  if (options.source == options.target) return refuse("Source and target cannot be the same");
  if (options.discard_source) return Error(Errc::unsupported, "discard-source is not supported");
  if (auto ok = check_perf(options.perf); !ok) return ok.error();
  if (auto ok = check_staging(options.staging, options.source->graph().workings()); !ok) return ok.error();
  if (options.source->size() != options.target->size())
    return refuse("Source and target image have different sizes");
  if (options.compress && !options.target->driver().supports_compression())
    return Error(Errc::unsupported,
                 "Compression is not supported for this drive '" + options.target->name() + "'");
  return bitmap;
}

}  // namespace tidemark
