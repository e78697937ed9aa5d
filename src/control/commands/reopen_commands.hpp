// blockdev-reopen: nodes in use get other options, all of them or none.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/reopen.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class ReopenCommandHandler final : public ReopenCommands {
 public:
  ReopenCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> blockdev_reopen(schema::BlockdevReopenArguments arguments) override;

 private:
  Homes& homes_;
  JobManager& jobs_;
};

}  // namespace tidemark
