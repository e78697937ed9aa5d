// CommitJob: writes what the layers from `top` down hold into the `base` below them, and then takes these layers out of
// the chain: the images above stand on the base.  For layers that nobody writes to.
//
// The layers hide what is written to the base, so that the disk stays the same, and a job that was cut off, however that
// happened, has changed nothing that anybody can see above them.  At the end
//   1. the base is flushed: it holds all that the layers held, whatever happens;
//   2. the headers above name the base, durably, one after the other.  With either name the disk is the same;
//   3. the chain that is open follows.
// Whoever reads the base itself, or one of the layers but the top, would see it change: there must be none, unless what they
// read is preserved before the base is written (job/chain/preserver.hpp).
#pragma once

#include <memory>

#include "block/graph.hpp"
#include "block/write_behind.hpp"
#include "job/chain/chain_access.hpp"
#include "job/chain/chain_names.hpp"
#include "job/chain/preserver.hpp"
#include "job/job_manager.hpp"
#include "job/pieces.hpp"

namespace tidemark {

struct CommitOptions {
  JobOptions job;
  BlockNode* disk = nullptr;             // what guests use
  BlockNode* top = nullptr;
  BlockNode* base = nullptr;
  std::optional<std::string> backing_file;   // how the headers above are to name the base
  bool mask_protocol = false;
  OnError on_error = OnError::report;    // `ignore` tries again
  std::string filter_node_name;          // empty: generated
  bool keep_active = false;              // of a top that guests write to, see job/mirror/active_commit.hpp
  bool empty_active = false;
  Preserve preserve = Preserve::off;     // what reads from the base otherwise
  ChainAccess* access = nullptr;
};

class CommitJob final : public Job, PieceSource {
 public:
  // Called on the manager's thread.  On error nothing has changed.
  static Task<ManagedJob*> create(JobManager& jobs, CommitOptions options);

  explicit CommitJob(CommitOptions options) : options_(std::move(options)) {}

  Task<> attach();                               // create()'s, at home
  JobType type() const noexcept override { return JobType::commit; }
  JobProgress progress() const noexcept override;
  bool uses(const BlockNode& node) const noexcept override;
  Edge* edge() const noexcept override { return edge_.get(); }
  Task<> run(JobContext& context) override;
  Task<> prepare() override;
  Task<> clean() override;

 private:
  // An image whose header is to name the base.
  struct Overlay {
    BlockNode* node;
    BackingName before;
    bool made_writable = false;
  };
  std::string user() const { return "block job '" + options_.job.id + "'"; }
  BlockNode& top() const noexcept { return *options_.top; }
  BlockNode& base() const noexcept { return *options_.base; }
  Task<> insert_filter();
  Task<> block_chain();
  Task<> preserve();
  std::uint64_t written_end() const;
  Task<> cover_tail();
  Task<> rename(Overlay& overlay);
  Task<> rename_back(Overlay& overlay);
  Task<> shorten_chain();
  Task<Found> look(Range wanted) override;
  Task<Outcome> copy(Range piece, Kind kind, MutableBytes buffer) override;
  Task<> copied(std::uint64_t bytes) override { return behind_->wrote(bytes); }

  CommitOptions options_;
  BlockNode* filter_node_ = nullptr;     // above the top
  std::unique_ptr<Edge> edge_;           // the job's own, on the disk
  std::unique_ptr<Edge> source_, target_;      // on the top and the base; pass while these are drained, with a piece in flight
  std::vector<std::unique_ptr<Edge>> chain_;   // keep the layers from being used and changed by others
  std::optional<Preserver> preserver_;
  std::optional<Pieces> pieces_;
  std::optional<WriteBehind> behind_;
  std::vector<Overlay> overlays_;
  bool made_writable_ = false, shortened_ = false;
};

}  // namespace tidemark
