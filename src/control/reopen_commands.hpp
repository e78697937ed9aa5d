// blockdev-reopen: nodes in use get other options, all of them or none.
#pragma once

#include "control/commands/reopen.hpp"
#include "control/homes.hpp"
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
