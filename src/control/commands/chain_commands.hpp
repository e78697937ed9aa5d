// block-stream, block-commit, change-backing-file.
#pragma once

#include "control/graph/homes.hpp"
#include "control/jobs/node_access.hpp"
#include "control/qmp/commands/chain.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class ChainCommandHandler final : public ChainCommands {
 public:
  ChainCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> block_stream(schema::BlockStreamArguments arguments) override;
  Task<> block_commit(schema::BlockCommitArguments arguments) override;
  Task<> change_backing_file(schema::ChangeBackingFileArguments arguments) override;

 private:
  Task<> check_unused(std::vector<BlockNode*> nodes, Place& place);
  Task<> check_name_free(const std::string& filter, const Place& place);

  Homes& homes_;
  JobManager& jobs_;
  NodeAccess access_;
};

}  // namespace tidemark
