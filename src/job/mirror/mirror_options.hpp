// What a mirror can be asked for (qapi: blockdev-mirror, DriveMirror), and what of it makes sense.
#pragma once

#include <optional>
#include <string>

#include "job/backup/backup_options.hpp"
#include "job/mirror/active_commit.hpp"

namespace tidemark {

enum class CopyMode : std::uint8_t { background, write_blocking };
std::string_view to_string(CopyMode mode) noexcept;

struct MirrorOptions {
  JobOptions job;
  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  std::optional<std::string> replaces;   // a node that `source` shows; by default itself
  SyncMode sync = SyncMode::full;
  BitmapChoice bitmap;                   // of the source
  std::uint64_t granularity = 0;         // 0: what suits the target
  std::int64_t buf_size = 0;             // 0: what suits
  OnError on_source_error = OnError::report, on_target_error = OnError::report;
  CopyMode copy_mode = CopyMode::background;
  bool unmap = true;
  bool target_is_zero = false;
  bool onto_source = false;              // the target is to have what it replaces as its backing file
  std::string filter_node_name;          // empty: generated
  ChainAccess* access = nullptr;         // null: bitmaps stay where they are
  std::optional<ActiveCommitOptions> commit;     // the target is in the source's chain, and both have been checked
};

// The bitmap to use, or null; messages are QEMU's.  Fills in what QEMU implies.
Result<NodeBitmap*> check_mirror(MirrorOptions& options);

// The node that a pivot replaces.
Result<BlockNode*> find_replaced(const MirrorOptions& options);

// How finely differences are told: a target's clusters are written whole.
Task<std::uint64_t> choose_mirror_granularity(const MirrorOptions& options);

}  // namespace tidemark
