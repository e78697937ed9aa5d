// What a backup can be asked for (qapi: BackupCommon), and what of it makes sense.
#pragma once

#include <optional>
#include <string>

#include "filter/copy_before_write.hpp"
#include "job/managed_job.hpp"

namespace tidemark {

enum class SyncMode : std::uint8_t { top, full, none, incremental, bitmap };
std::string_view to_string(SyncMode mode) noexcept;

// What becomes of the bitmap when the job ends (qapi: BitmapSyncMode).
enum class BitmapMode : std::uint8_t { on_success, never, always };
std::string_view to_string(BitmapMode mode) noexcept;

// Which bitmap of the source a job that copies is to use and what is to become of it.
struct BitmapChoice {
  SyncMode sync = SyncMode::full;
  std::optional<std::string> name;
  std::optional<BitmapMode> mode;
};
// The bitmap to use, or null; the mode is filled in where QEMU implies it.
Result<NodeBitmap*> choose_bitmap(BlockNode& source, BitmapChoice& choice);

struct BackupOptions {
  JobOptions job;
  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  SyncMode sync = SyncMode::full;
  std::optional<std::string> bitmap;  // of the source
  std::optional<BitmapMode> bitmap_mode;
  bool compress = false;
  OnError on_source_error = OnError::report, on_target_error = OnError::report;
  // QEMU's default fails the guest's write; ours fails the backup instead.
  OnCbwError on_cbw_error = OnCbwError::break_snapshot;
  StageOptions staging;
  std::string filter_node_name;  // empty: generated
  std::shared_ptr<CopyWitness> witness;  // null: nobody
  bool discard_source = false;
  struct Perf {                   // x-perf
    bool use_copy_range = false;  // a hint that is not needed
    std::int64_t max_workers = 64;
    std::int64_t max_chunk = 0;
    std::uint64_t min_cluster_size = 0;
  } perf;
};

// The bitmap to use, or null; options.bitmap_mode is filled in where QEMU implies it.
Result<NodeBitmap*> check_backup(BackupOptions& options);

}  // namespace tidemark
