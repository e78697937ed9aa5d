// MirrorJob: keeps a target equal to a disk that goes on being written, until it is told to end: then all users
// of the disk go over to the target, or the target stays as a copy of that moment.
//
//   copying   until nothing differs, or, with guests that are never done, little for a while, and the target is
//             flushed: the job is ready
//   ready     what is written meanwhile is copied, or goes to both (write-blocking)
//   ending    once little differs: the disk is held still, the rest is copied and the target flushed, all
//             within a short while, or else guests go on and it is tried again; then the graph changes
//
// Guests wait for the target only in that short while, and when write-blocking.  Cancelled before it is ready,
// or with force, the target is of no use, but for the bitmap below.  A target that does not answer is given up
// with the job.
//
// A job that ends for itself alone ends within run() and holds the disk until prepare(), which follows at once.
// One that has to wait for others, or for the user, holds nothing meanwhile: guests go on, and prepare() catches
// up.  When that cannot be done in time it fails.
//
// A bitmap of the source, if one is given, is frozen while the job lasts; when it ends well, it is as if it had
// been cleared at the end.  With bitmap-mode always it holds in the end what the target does not have, also when
// the job is cancelled or fails: a mirror by that bitmap goes on from there.  As a backup's, bits are lost only
// when target and source are flushed (job/backup/backup.hpp).  Bitmaps stay with the node they are of.
//
// With a target that is below the source it is an active commit (job/mirror/active_commit.hpp): what is above the target is copied, and
// requests in the target are the guests' own, too, so that nobody gives them up.
#pragma once

#include <memory>

#include "block/graph.hpp"
#include "job/job_manager.hpp"
#include "job/mirror/active_commit.hpp"
#include "job/mirror/mirror_copy.hpp"
#include "job/mirror/mirror_options.hpp"

namespace tidemark {

class MirrorJob final : public Job {
 public:
  // Source and target are on one thread, which is the job's home; called on the manager's.  On error nothing has
  // changed.
  static Task<ManagedJob*> create(JobManager& jobs, MirrorOptions options);

  MirrorJob(MirrorOptions options, NodeBitmap* bitmap);

  Task<> attach();                               // create()'s, at home

  // At home: from the next write on.
  void set_copy_mode(CopyMode mode) noexcept;

  JobType type() const noexcept override { return commit_ ? JobType::commit : JobType::mirror; }
  JobProgress progress() const noexcept override;
  std::optional<bool> actively_synced() const noexcept override;
  bool uses(const BlockNode& node) const noexcept override;
  Edge* edge() const noexcept override { return edge_.get(); }
  void start() noexcept override;
  Task<> run(JobContext& context) override;
  Task<> prepare() override;
  void commit() noexcept override;
  void abort() noexcept override;
  Task<> clean() override;
  void complete() noexcept override;
  bool cancel(bool force) noexcept override;

 private:
  enum class Ending : std::uint8_t { none, copy, pivot, cancel };
  // What others leave at the job's home, where it may arrive after the job's end.
  struct Door {
    MirrorJob* job = nullptr;
  };
  static Task<NodeBitmap*> check(MirrorOptions& options);
  Task<> insert_filter();
  Task<> expect_backing(MirrorTopOptions& above);
  MirrorTop& top() const noexcept { return *filter_; }
  // A commit keeps its source, and what it has above that for itself goes before it ends.
  BlockNode& below_filter() const noexcept { return commit_ ? *options_.source : top().file().node(); }
  std::string user() const { return "block job '" + options_.job.id + "'"; }
  Graph& graph() const noexcept { return options_.source->graph(); }
  // Neither the user nor other jobs have a say in when it ends.
  bool ends_for_itself() const noexcept { return options_.job.auto_finalize && !options_.job.transaction; }
  void ask_to_end(Ending ending) noexcept;
  void end(Ending ending) noexcept;
  void something_happened() noexcept;

  Task<> mirror(JobContext& context);
  Task<> fit_target();
  Task<bool> step(JobContext& context);
  Task<> rest(JobContext& context);
  bool little_differs() const noexcept;
  bool copied_enough() noexcept;
  bool mark_lost() noexcept;
  Task<> react(JobContext& context, Point::Failure failure);
  // What is not durable() after it is to be copied again.
  Task<Point::Outcome> flush_target();
  Task<Point::Outcome> flush_source();
  Task<Point::Outcome> settle();
  Task<> catch_up();
  Task<> catch_up_until(Instant end);
  Task<> press_target_from(Instant moment, CancelToken token);
  Task<> pivot();
  Result<> put_onto(BlockNode& below);
  Task<> forget_bitmaps(BlockNode& from, std::optional<Graph::DrainGuard>& still);
  Task<> stay_on_top();
  Task<bool> give_up_early(JobContext& context);
  Task<> take_out_filter();
  static Task<> let_go(std::unique_ptr<Edge>& held);
  Task<> press_target(CancelToken token);
  Task<> give_up_target(CancelToken token);
  Task<> save_unfinished();
  bool loses_bits() const noexcept;
  // When it ends, those that follow the disk go to the target.
  bool brings_bitmaps() const noexcept { return options_.access && ending_ == Ending::pivot && !(commit_ && commit_->keeps_top()); }
  void drop_frozen_bits() noexcept;

  MirrorOptions options_;
  NodeBitmap* bitmap_;
  std::optional<ActiveCommit> commit_;
  BlockNode* filter_node_ = nullptr;
  MirrorTop* filter_ = nullptr;            // its driver
  std::unique_ptr<Edge> edge_;             // the job's own, on the filter
  std::unique_ptr<Edge> base_;             // on what the top layer stands on; carries no requests
  std::unique_ptr<Edge> replaced_;         // on what was below the source until the pivot
  std::optional<MirrorCopy> copy_;
  Event given_up_;                         // cancelled by force
  JobContext* context_ = nullptr;          // while it runs
  std::atomic<bool> ready_ = false;        // the manager looks, too
  bool waiting_ = false;
  std::uint64_t little_ = std::uint64_t{8} << 20;        // that may differ for the end to be tried; less each time it fails
  std::optional<Instant> little_since_;    // differs, before it is ready
  std::uint64_t losses_ = 0;               // of the source, that are made good
  bool bad_size_ = false;
  bool durable_ = false;                   // the target, after the last flush
  bool gave_up_ = false;                   // the source, what the target has: once, while guests go on
  Ending ending_ = Ending::none;
  std::optional<Graph::DrainGuard> still_; // the source, from the end on
  std::optional<DirtyBitmap> unfinished_;  // what the target does not have; known by flushes
  bool frozen_ = false, drops_ = false;
  bool save_ = false;                      // bits were dropped that the bitmap's store still keeps
  std::shared_ptr<Door> door_ = std::make_shared<Door>();
};

}  // namespace tidemark
