// BackupJob: copies the content that a disk has at one moment to a target, while the disk goes on
// being written.
//
// create() does all that can fail, under the caller's drain of the source, so that one transaction
// can begin several backups and change bitmaps at the same moment; that moment is
// JobManager::start().
//
// Losing bits.  A bitmap that the backup is based on is frozen at that moment; writes since go to
// its successor.  When the job succeeds, the frozen bits are dropped, for the target has what they
// stand for.  That is right only if a power cut afterwards cannot undo the one without the other,
// so first
//   1. the target is flushed: what the bits stand for is in the backup, whatever happens;
//   2. the source is flushed, after the point in time: else the disk could come back with older
//      content under a clean bit, and the next backup would not copy it.
// A persistent bitmap's store forgets them before the job is concluded.
// On failure and cancellation the frozen bits return to the bitmap: nothing is lost.
//
// Waiting.  Guests wait for the target only where what they overwrite has to be there before it is
// overwritten: with sync=none, and where the target shows the source beneath what it holds itself.
// Else it is staged (filter/stage.hpp).  A target that does not answer keeps the job, not the guest.
#pragma once

#include <memory>

#include "block/graph.hpp"
#include "job/backup/backup_options.hpp"
#include "job/copy_engine.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class BackupJob final : public Job {
 public:
  // Source and target are on one thread, which is the job's home; called on the manager's.  The source
  // is drained by the caller until the job is started or abandoned.  On error nothing has changed.
  static Task<ManagedJob*> create(JobManager& jobs, BackupOptions options);

  BackupJob(BackupOptions options, std::shared_ptr<NodeBitmap> bitmap)
      : options_(std::move(options)), bitmap_(std::move(bitmap)) {}

  // Before the job is started, at its home: copies to this node instead, which is as the one it was made
  // with.  That one is let go of.
  Task<> take_target(BlockNode& target);

  // For the user, about the target; empty for none.
  const std::string& warning() const noexcept { return warning_; }

  JobType type() const noexcept override { return JobType::backup; }
  JobProgress progress() const noexcept override;
  std::optional<JobStaging> staging() const noexcept override;
  bool uses(const BlockNode& node) const noexcept override;
  Edge* edge() const noexcept override { return edge_.get(); }
  void start() noexcept override;
  Task<> run(JobContext& context) override;
  Task<> prepare() override;
  void commit() noexcept override;
  void abort() noexcept override;
  Task<> clean() override;
  bool cancel(bool force) noexcept override;

 private:
  // What cancel() leaves at the job's home, where it may arrive after the job's end.
  struct Cancellation {
    BackupJob* job = nullptr;
    Reactor* home = nullptr;
  };
  static Task<std::shared_ptr<NodeBitmap>> check(BackupOptions& options);
  Task<> attach();
  Task<> detach();
  Result<> check_chunk() const;
  Point& point() const noexcept { return filter_->point(); }
  Task<> copy_with_relief(JobContext& context, CopyEngine& engine);
  Task<> copy_and_flush(JobContext& context, CopyEngine& engine);
  Task<> copy(JobContext& context, CopyEngine& engine);
  Task<> give_up_target(Event& broken, CancelToken token);
  Task<> press_target(BlockNode& target, CancelToken token);
  Task<> drop_unallocated(JobContext& context);
  Task<> copy_all(JobContext& context, CopyEngine& engine);
  Task<> wait_for_guests(JobContext& context);
  Task<> react(JobContext& context, Point::Failure failure);
  Task<> flush();
  bool loses_bits(bool succeeded) const noexcept;
  void drop_frozen_bits() noexcept;
  Task<> save_bitmap(Graph& graph);
  std::string user() const { return "block job '" + options_.job.id + "'"; }
  void thaw() noexcept;

  BackupOptions options_;
  std::shared_ptr<NodeBitmap> bitmap_;
  BlockNode* filter_node_ = nullptr;
  CopyBeforeWrite* filter_ = nullptr;      // its driver
  std::unique_ptr<Edge> edge_;             // the job's own, on the filter
  std::unique_ptr<Edge> below_;            // of `top`: on the layer that the target stands on; carries no requests
  std::optional<DirtyBitmap> unfinished_;  // what is not safely in the target; known by a flush
  // The bitmap is busy while `holds_`, from start to end.  Its node may be taken out of the chain meanwhile, and be gone.
  bool frozen_ = false, holds_ = false, succeeded_ = false;
  bool save_ = false;                      // bits were dropped that the bitmap's store still keeps
  std::string warning_;
  std::shared_ptr<Cancellation> cancellation_ = std::make_shared<Cancellation>();
};

}  // namespace tidemark
