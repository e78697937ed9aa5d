// What block-stream and block-commit name, found and checked: errors are QEMU's.  On the nodes' thread.
#pragma once

#include "job/chain/commit.hpp"
#include "job/chain/stream.hpp"
#include "job/mirror/mirror_options.hpp"
#include "schema/chain.hpp"

namespace tidemark {

// Also the nodes that no other job may use.
struct StreamPlan {
  StreamOptions options;
  std::vector<BlockNode*> concerned;
};
Task<StreamPlan> plan_stream(Graph& graph, const schema::BlockStreamArguments& arguments);

struct CommitPlan {
  CommitOptions options;
  std::vector<BlockNode*> concerned;
  bool active = false;                           // guests write to the top
};
// What is asked of a mirror then.
MirrorOptions active_commit(const CommitOptions& options);
Task<CommitPlan> plan_commit(Graph& graph, const schema::BlockCommitArguments& arguments);

}  // namespace tidemark
