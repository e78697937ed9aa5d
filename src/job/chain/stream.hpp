// StreamJob: brings what the layers between a disk's image and its new backing file hold up into the image, and
// then takes these layers out of its chain.
//
// What is pulled is what the disk reads there already: no bitmap is marked, and a job that was cut off, however
// that happened, has changed nothing that anybody can see.  At the end
//   1. the image is flushed: it holds all that the layers held, whatever happens;
//   2. its header names the new backing file, durably.  With either name the disk is the same;
//   3. the chain that is open follows.
#pragma once

#include <memory>

#include "block/graph.hpp"
#include "block/write_behind.hpp"
#include "filter/copy_on_read.hpp"
#include "job/chain/chain_access.hpp"
#include "job/job_manager.hpp"
#include "job/pieces.hpp"

namespace tidemark {

struct StreamOptions {
  JobOptions job;
  BlockNode* disk = nullptr;             // an image, or filters on one
  BlockNode* bottom = nullptr;           // the last layer that is pulled from; the image itself: none is
  std::optional<std::string> backing_file;   // how the header is to name what is below `bottom`
  bool mask_protocol = false;
  OnError on_error = OnError::report;
  std::string filter_node_name;          // empty: generated
  ChainAccess* access = nullptr;
};

class StreamJob final : public Job, PieceSource {
 public:
  // Called on the manager's thread.  On error nothing has changed.
  static Task<ManagedJob*> create(JobManager& jobs, StreamOptions options);

  explicit StreamJob(StreamOptions options);

  Task<> attach();                               // create()'s, at home
  JobType type() const noexcept override { return JobType::stream; }
  JobProgress progress() const noexcept override { return pieces_ ? pieces_->progress() : JobProgress(); }
  bool uses(const BlockNode& node) const noexcept override;
  Edge* edge() const noexcept override { return edge_.get(); }
  Task<> run(JobContext& context) override;
  Task<> prepare() override;
  Task<> clean() override;

 private:
  std::string user() const { return "block job '" + options_.job.id + "'"; }
  Task<> block_chain();
  Task<> insert_filter();
  Task<> remove_filter();
  Task<> react(JobContext& context, Pieces::Failed failed);
  Task<> shorten_chain(BlockNode* base);
  Task<Found> look(Range wanted) override;
  Task<Outcome> copy(Range piece, Kind kind, MutableBytes buffer) override;
  Task<> copied(std::uint64_t bytes) override { return behind_->wrote(bytes); }

  StreamOptions options_;
  BlockNode& image_;                     // what is pulled into: the disk below any filters
  CopyOnRead* filter_ = nullptr;         // the driver of filter_node_
  BlockNode* filter_node_ = nullptr;
  std::unique_ptr<Edge> edge_;           // the job's own, on the filter
  std::vector<std::unique_ptr<Edge>> chain_;   // keep the image, and the layers to be taken out, as they are
  std::optional<WriteBehind> behind_;
  std::optional<Pieces> pieces_;
  BlockNode* removed_ = nullptr;         // the first layer that was taken out
  std::optional<Error> ignored_;
  bool made_writable_ = false;
};

}  // namespace tidemark
