// ActiveCommit: what a mirror holds besides when its target, the base, is below its source, the top, which guests write to.
//
// What the base is given the layers above it hide, and what they do not hide it is given as it is: the disk stays the same,
// and a job that was cut off, however that happened, has changed nothing that anybody can see above the base.  Whoever
// reads the base itself, or one of the layers above it but through the job's filter, would see it change: there must be none.
//
// In the end guests use the base; or, when the top is to stay, the layers between go as in a commit below it
// (job/chain/commit.hpp), and the top gives up what the base holds as it does, once that is durable.  With or without it the disk
// is the same.  So they go when the top is to be emptied: it then shows the base, and not what it had hidden of them.
//
// Where what reads from the base is preserved (job/chain/preserver.hpp), the top goes on reading as the disk did when guests left it.
#pragma once

#include <functional>
#include <optional>

#include "filter/mirror_top.hpp"
#include "job/chain/preserver.hpp"

namespace tidemark {

struct ActiveCommitOptions {
  ChainAccess* access = nullptr;
  bool keep_active = false;                      // the top stays
  std::optional<std::string> backing_file;       // how its header is to name the base then
  bool mask_protocol = false;
  bool empty_active = false;                     // the top goes, and is no more than an empty overlay of the base before guests go over
  bool preserve = false;                         // what reads from the base goes on reading as it does: Preserve::full
};

// On the thread of its nodes.
class ActiveCommit {
 public:
  ActiveCommit(BlockNode& top, BlockNode& base, ActiveCommitOptions options, std::string user)
      : top_(top), base_(base), options_(std::move(options)), user_(std::move(user)) {}

  bool keeps_top() const noexcept { return options_.keep_active; }

  // The base can be written from here on, and is kept.
  Task<> open_base();
  // Once the filter is above the top.
  Task<> preserve();
  Result<> hold_layers();
  void let_go_of_layers() noexcept { layers_.clear(); }
  bool holds(const BlockNode& node) const noexcept;
  // The disk is held still, all is equal and the base durable: the top stands on the base.
  Task<> take_out_layers();
  // The top stands on the base, which is durable and not written to: the top gives up what is not dirty in the filter, until that
  // is enough.  Guests go on.  `through` is a root edge on the filter.
  Task<> give_up(MirrorTop& filter, Edge& through, std::function<bool()> enough = {});
  // So that little is left of it for the moment at which guests wait.
  bool gives_up_early() const noexcept { return options_.empty_active && !stands_on_others(); }

  // What is used of the base besides.
  Permissions::Set more_uses() const noexcept { return preserver_ && !keeps_top() ? Permissions::write_below : Permissions::none; }
  bool uses(const BlockNode& node) const noexcept { return preserver_ && preserver_->uses(node); }
  JobProgress progress() const noexcept { return preserver_ ? preserver_->progress() : JobProgress(); }
  // Before the base is first written, and before guests can go over to it.
  Task<> preserve_before_writing(JobContext& context, OnError policy);
  Task<> preserve_top(JobContext& context, OnError policy);
  // Nobody writes to the base any more, or guests have gone over to it.
  Task<> end_preserving();

  // Before guests go over to the base, while the disk is held still, all is equal and the base durable.
  Task<> prepare_pivot();
  Task<> undo_pivot();
  // They have gone over to it, or the layers have been taken out, and nobody has written to the base since.
  Task<> part_from_base();
  // The base is what guests use: it can be written if the top could.
  void hand_over() noexcept { stays_writable_ = top_writable_; }
  // Else it is as it was; it may be all that is left of the chain.
  Task<> close_base();

 private:
  Task<> give_up_area(MirrorTop& filter, Edge& through, Range area);
  bool stands_on_others() const noexcept;        // than the base

  BlockNode &top_, &base_;
  const ActiveCommitOptions options_;
  const std::string user_;
  std::vector<std::unique_ptr<Edge>> layers_;    // keep them from being used and changed by others
  std::unique_ptr<Edge> kept_;
  std::optional<Preserver> preserver_;
  BlockNode* removed_ = nullptr;                 // the first layer that was taken out
  bool made_writable_ = false, top_writable_ = false, stays_writable_ = false;
};

}  // namespace tidemark
