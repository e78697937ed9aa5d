#include "job/backup_options.hpp"

#include <climits>

#include "block/graph.hpp"

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

}  // namespace

std::string_view to_string(SyncMode mode) noexcept {
  constexpr std::string_view names[] = {"top", "full", "none", "incremental", "bitmap"};
  return names[static_cast<unsigned>(mode)];
}

std::string_view to_string(BitmapMode mode) noexcept {
  constexpr std::string_view names[] = {"on-success", "never", "always"};
  return names[static_cast<unsigned>(mode)];
}

Result<NodeBitmap*> choose_bitmap(BlockNode& source, BitmapChoice& choice) {
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
  NodeBitmap* bitmap = source.bitmaps().find(*choice.name);
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
  BitmapChoice choice{options.sync, options.bitmap, options.bitmap_mode};
  auto bitmap = choose_bitmap(*options.source, choice);
  if (!bitmap) return bitmap;
  options.bitmap_mode = choice.mode;
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
