// BackupRun: one point of one or more disks of a running daemon, taken over QMP into a backup directory.
//
//   clear     what a run before it that was killed has left in the daemon
//   plan      level of each disk, from the points and the bitmaps
//   prepare   the point's images, and nodes for them in the daemon
//   start     one transaction, while guests are at rest: a new bitmap and a backup job for each disk
//   wait      for the jobs
//   seal      checksums, by the jobs of what they read, or, where the daemon does not do that, read back from the
//             images; manifest; publish
//   tidy up   bitmaps that the new point makes useless
//
// Jobs and target nodes are named after the directory, whose lock is held: those of that name that are
// there at the start belong to nobody.
//
// Invariant: after run() has failed and undo() has not, points, bitmaps and the daemon's nodes are as they were.
#pragma once

#include <string>
#include <vector>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/commands.hpp"
#include "app/cli/progress.hpp"
#include "backup/directory.hpp"
#include "backup/seal.hpp"

namespace tidemark::cli {

struct RunDisk {
  DiskChoice choice;
  std::uint64_t size = 0;
  DiskPlan plan;
  std::vector<std::string> base_images;   // newest first; empty for a full backup
  std::string target_node, job_id, new_bitmap, checkpoint;
  bool target_added = false, bitmap_added = false, job_started = false;
  bool job_concluded = false;
  std::string job_error;
  DiskManifest manifest;
};

class BackupRun {
 public:
  BackupRun(const Context& context, QmpClient& client, BackupDirectory& directory, BackupOptions options)
      : context_(context), client_(client), directory_(directory), options_(std::move(options)),
        progress_(context, "backup") {}

  Task<PointManifest> run();
  Task<> undo();                       // after run() has failed; as far as it can
  const std::vector<RunDisk>& disks() const noexcept { return disks_; }
  // Why the new bitmaps end with the daemon; empty: they outlive it.
  const std::string& bitmaps_reason() const noexcept { return bitmaps_reason_; }
  // An error: guests were not at rest all the while, or may not have been thawed.  The point is taken all the same.
  const Result<>& quiesced() const noexcept { return quiesced_; }
  bool quiesces() const noexcept { return !options_.quiesce.command.empty(); }

 private:
  Task<> clear_left_behind();
  Task<> plan();
  Task<> choose_disks(const Disks& disks);
  Task<> check_since();
  Task<> announce_checkpoint();
  Task<> note_checkpoint();
  Task<> check_checkpoint();
  Task<> drop_checkpoint();
  Task<> delete_checkpoint(CheckpointNote note);
  Task<> plan_one(RunDisk& disk, const Json& nodes);
  Task<> check_base(RunDisk& disk);
  Task<> choose_exported(const Disks& disks);
  std::string name_here(const std::vector<std::string>& names) const;
  Task<> take_point();
  Task<> prepare(RunDisk& disk);
  Task<> start_at_rest();
  Task<> start();
  Task<> start_jobs(bool persistent);
  Task<Seal> seal_by_reading(RunDisk& disk);
  std::string sums_path(const RunDisk& disk) const;
  Task<> wait();
  Error job_failed(const RunDisk& disk) const;
  Result<bool> all_concluded(const Json& jobs);
  Task<> cancel_jobs();
  Task<> end_jobs(std::vector<std::string> ids);
  Task<> dismiss_jobs();
  Task<> remove_targets();
  Task<> drop_targets();
  Task<> seal(RunDisk& disk);
  Task<PointManifest> publish();
  Task<> drop_old_bitmaps();
  Task<Json> read_machine();
  std::string image_path(const RunDisk& disk) const;
  std::string own_prefix() const { return "tidemark-" + directory_.id() + "-"; }

  const Context& context_;
  QmpClient& client_;
  BackupDirectory& directory_;
  BackupOptions options_;
  Progress progress_;
  std::vector<RunDisk> disks_;
  std::string id_;
  std::int64_t time_ns_ = 0;
  Instant started_{};
  Json machine_;
  bool extended_ = false;              // the daemon is ours, not QEMU's
  bool checkpoints_ = false;           // and bitmaps follow their disks there
  std::string bitmaps_reason_;
  Result<> quiesced_;
};

}  // namespace tidemark::cli
