// ActiveCommit: what a mirror holds besides when its target, the base, is below its source, the top, which guests write to.
//
// What the base is given the layers above it hide, and what they do not hide it is given as it is: the disk stays the same,
// and a job that was cut off, however that happened, has changed nothing that anybody can see above the base.  Whoever
// reads the base itself, or one of the layers above it but through the job's filter, would see it change: there must be none.
#pragma once

#include "block/edge.hpp"
#include "job/chain_access.hpp"

namespace tidemark {

// On the thread of its nodes.
class ActiveCommit {
 public:
  ActiveCommit(BlockNode& top, BlockNode& base, ChainAccess& access, std::string user)
      : top_(top), base_(base), access_(access), user_(std::move(user)) {}

  // The base can be written from here on, and stays.
  Task<> open_base();
  // Once the filter is above the top.
  Result<> hold_layers();
  void let_go_of_layers() noexcept { layers_.clear(); }
  bool holds(const BlockNode& node) const noexcept;
  // The base is what guests use: it can be written if the top could.
  void hand_over() noexcept { stays_writable_ = !top_.read_only(); }
  // Else it is as it was; it may be all that is left of the chain.
  Task<> close_base();

 private:
  BlockNode &top_, &base_;
  ChainAccess& access_;
  const std::string user_;
  std::vector<std::unique_ptr<Edge>> layers_;    // keep them from being used and changed by others
  std::unique_ptr<Edge> kept_;
  bool made_writable_ = false, stays_writable_ = false;
};

}  // namespace tidemark
