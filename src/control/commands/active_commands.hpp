// blockdev-set-active.
#pragma once

#include "control/exports/exports.hpp"
#include "control/graph/homes.hpp"
#include "control/qmp/commands/active.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class ActiveCommandHandler final : public ActiveCommands {
 public:
  ActiveCommandHandler(Homes& homes, JobManager& jobs, Exports& exports) : homes_(homes), jobs_(jobs), exports_(exports) {}
  Task<> blockdev_set_active(schema::BlockdevSetActiveArguments arguments) override;

 private:
  Task<> change(Place& place, std::string name, bool active);

  Homes& homes_;
  JobManager& jobs_;
  Exports& exports_;
};

}  // namespace tidemark
