// The commands on snapshots: those that make one are transactions of a single action.
#pragma once

#include "control/exports/exports.hpp"
#include "control/qmp/commands/snapshot.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class SnapshotCommandHandler final : public SnapshotCommands {
 public:
  SnapshotCommandHandler(Homes& homes, JobManager& jobs, Exports& exports) : homes_(homes), jobs_(jobs), exports_(exports) {}
  Task<> blockdev_snapshot(schema::BlockdevSnapshot arguments) override { return make(std::move(arguments)); }
  Task<> blockdev_snapshot_sync(schema::BlockdevSnapshotSync arguments) override { return make(std::move(arguments)); }
  Task<> blockdev_snapshot_internal_sync(schema::BlockdevSnapshotInternal arguments) override { return make(std::move(arguments)); }
  Task<schema::SnapshotInfo> blockdev_snapshot_delete_internal_sync(
      schema::BlockdevSnapshotDeleteInternalSyncArguments arguments) override;
  Task<> blockdev_snapshot_revert(schema::BlockdevSnapshotRevert arguments) override;

 private:
  template <class Arguments>
  Task<> make(Arguments arguments);

  Homes& homes_;
  JobManager& jobs_;
  Exports& exports_;
};

}  // namespace tidemark
