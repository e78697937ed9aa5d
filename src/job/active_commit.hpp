// ActiveCommit: what a mirror holds besides when its target, the base, is below its source, the top, which guests write to.
//
// What the base is given the layers above it hide, and what they do not hide it is given as it is: the disk stays the same,
// and a job that was cut off, however that happened, has changed nothing that anybody can see above the base.  Whoever
// reads the base itself, or one of the layers above it but through the job's filter, would see it change: there must be none.
//
// In the end guests use the base; or, when the top is to stay, the layers between go as in a commit below it (job/commit.hpp), and the
// top gives up what the base holds as it does, once that is durable.  With or without it the disk is the same.
#pragma once

#include <optional>

#include "filter/mirror_top.hpp"
#include "job/chain_access.hpp"

namespace tidemark {

struct ActiveCommitOptions {
  ChainAccess* access = nullptr;
  bool keep_active = false;                      // the top stays
  std::optional<std::string> backing_file;       // how its header is to name the base then
  bool mask_protocol = false;
  bool empty_active = false;                     // the top goes, and gives up all it holds before guests go over to the base
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
  Result<> hold_layers();
  void let_go_of_layers() noexcept { layers_.clear(); }
  bool holds(const BlockNode& node) const noexcept;
  // The disk is held still, all is equal and the base durable: the top stands on the base.
  Task<> take_out_layers();
  // The top gives up what is not dirty in the filter, which excludes writes.  `through` is a root edge on it.
  Task<> give_up(MirrorTop& filter, Edge& through);

  // Before guests go over to the base, while the disk is held still, all is equal and the base durable.
  Task<> prepare_pivot();
  // The base is what guests use: it can be written if the top could.
  void hand_over() noexcept { stays_writable_ = !top_.read_only(); }
  // Else it is as it was; it may be all that is left of the chain.
  Task<> close_base();

 private:
  BlockNode &top_, &base_;
  const ActiveCommitOptions options_;
  const std::string user_;
  std::vector<std::unique_ptr<Edge>> layers_;    // keep them from being used and changed by others
  std::unique_ptr<Edge> kept_;
  BlockNode* removed_ = nullptr;                 // the first layer that was taken out
  bool made_writable_ = false, stays_writable_ = false;
};

}  // namespace tidemark
