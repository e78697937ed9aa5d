// What the layers of an open chain hold, for plans (job/chain/chain_plan.hpp).  Guests go on meanwhile: it is about right.
#pragma once

#include "block/edge.hpp"
#include "job/chain/chain_plan.hpp"

namespace tidemark {

// The images from `top` down, filters left out.  Each is held by an edge, so that none goes meanwhile.
class ChainSurvey {
 public:
  // On the nodes' thread, from here on.
  static Result<ChainSurvey> begin(BlockNode& top);

  const std::vector<std::unique_ptr<Edge>>& layers() const noexcept { return layers_; }
  Task<ChainCosts> run();
  // Lets go of all, and closes who was only kept by this.
  Task<> end();

 private:
  std::vector<std::unique_ptr<Edge>> layers_;
};

}  // namespace tidemark
