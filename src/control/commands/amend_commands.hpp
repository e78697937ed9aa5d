// x-blockdev-amend.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/amend.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class AmendCommandHandler final : public AmendCommands {
 public:
  AmendCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> x_blockdev_amend(schema::XBlockdevAmendArguments arguments) override;

 private:
  Homes& homes_;
  JobManager& jobs_;
};

}  // namespace tidemark
