// blockdev-create: makes images, as a job.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/create.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class CreateCommandHandler final : public CreateCommands {
 public:
  CreateCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> blockdev_create(schema::BlockdevCreateArguments arguments) override;

 private:
  Homes& homes_;
  JobManager& jobs_;
};

}  // namespace tidemark
