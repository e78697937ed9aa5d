// What a backup can be asked for (qapi: BackupCommon), and what of it makes sense.
#pragma once

#include <optional>
#include <string>

#include "filter/copy_before_write.hpp"
#include "job/managed_job.hpp"

namespace tidemark {

enum class SyncMode : std::uint8_t { top, full, none, incremental, bitmap };
std::string_view to_string(SyncMode mode) noexcept;
// What is copied so of a disk is all of it: nothing can be meant to be below the copy.
bool copies_all(SyncMode mode, BlockNode& source) noexcept;

// What becomes of the bitmap when the job ends (qapi: BitmapSyncMode).
enum class BitmapMode : std::uint8_t { on_success, never, always };
std::string_view to_string(BitmapMode mode) noexcept;

// Which bitmap of a node a job that copies is to use and what is to become of it.
struct BitmapChoice {
  SyncMode sync = SyncMode::full;
  std::optional<std::string> name;
  std::optional<BitmapMode> mode;
};
// The bitmap to use, or null; the mode is filled in where QEMU implies it.
Result<NodeBitmap*> choose_bitmap(BlockNode& node, BitmapChoice& choice);

struct BackupOptions {
  JobOptions job;
  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  SyncMode sync = SyncMode::full;
  std::optional<std::string> bitmap;
  std::optional<std::string> bitmap_node;  // whose it is: a layer of the source; by default the source
  std::optional<BitmapMode> bitmap_mode;
  std::optional<std::string> since;  // a checkpoint of the source; instead of a bitmap
  bool compress = false;
  bool unmap = true, target_is_zero = false;
  OnError on_source_error = OnError::report, on_target_error = OnError::report;
  // QEMU's default fails the guest's write; ours fails the backup instead.
  OnCbwError on_cbw_error = OnCbwError::break_snapshot;
  StageOptions staging;
  std::string filter_node_name;  // empty: generated
  std::shared_ptr<CopyWitness> witness;  // null: nobody
  bool discard_source = false;
  std::shared_ptr<const DirtyBitmap> written;  // filled in: since the checkpoint
  std::vector<BlockNode*> layers;  // filled in: from the source down to the bitmap's node, when that is a layer below
  struct Perf {                   // x-perf
    bool use_copy_range = false;  // a hint that is not needed
    std::int64_t max_workers = 64;
    std::int64_t max_chunk = 0;
    std::uint64_t min_cluster_size = 0;
  } perf;
};

// The bitmap to use, or null; options.bitmap_mode is filled in where QEMU implies it, and what is to be filled in.
// The source is at rest until the job starts, where that is about a checkpoint.
Result<NodeBitmap*> check_backup(BackupOptions& options);

}  // namespace tidemark
