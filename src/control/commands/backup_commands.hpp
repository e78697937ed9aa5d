// blockdev-backup and drive-backup.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/backup.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class BackupCommandHandler final : public BackupCommands {
 public:
  BackupCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> blockdev_backup(schema::BlockdevBackup arguments) override;
  Task<> drive_backup(schema::DriveBackup arguments) override;

 private:
  template <class Arguments>
  Task<> begin(Arguments arguments);

  Homes& homes_;
  JobManager& jobs_;
};

}  // namespace tidemark
