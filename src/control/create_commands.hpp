// blockdev-create: makes images, as a job.
#pragma once

#include "block/graph.hpp"
#include "control/commands/create.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class CreateCommandHandler final : public CreateCommands {
 public:
  CreateCommandHandler(Graph& graph, JobManager& jobs) : graph_(graph), jobs_(jobs) {}
  Task<> blockdev_create(schema::BlockdevCreateArguments arguments) override;

 private:
  Graph& graph_;
  JobManager& jobs_;
};

}  // namespace tidemark
