// blockdev-backup and drive-backup.
#pragma once

#include "block/graph.hpp"
#include "control/commands/backup.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class BackupCommandHandler final : public BackupCommands {
 public:
  BackupCommandHandler(Graph& graph, JobManager& jobs) : graph_(graph), jobs_(jobs) {}
  Task<> blockdev_backup(schema::BlockdevBackup arguments) override;
  Task<> drive_backup(schema::DriveBackup arguments) override;

 private:
  template <class Arguments>
  Task<> begin(Arguments arguments);

  Graph& graph_;
  JobManager& jobs_;
};

}  // namespace tidemark
