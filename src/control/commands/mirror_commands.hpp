// blockdev-mirror and drive-mirror.
#pragma once

#include "control/graph/homes.hpp"
#include "control/jobs/node_access.hpp"
#include "control/qmp/commands/mirror.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class MirrorCommandHandler final : public MirrorCommands {
 public:
  MirrorCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> blockdev_mirror(schema::BlockdevMirror arguments) override;
  Task<> drive_mirror(schema::DriveMirror arguments) override;

 private:
  Homes& homes_;
  JobManager& jobs_;
  NodeAccess access_;
};

}  // namespace tidemark
