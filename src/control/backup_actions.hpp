// Backups as QMP asks for them, up to jobs that are made and not started: so that a transaction can
// start several at one moment.
#pragma once

#include "control/homes.hpp"
#include "job/backup.hpp"
#include "schema/backup.hpp"

namespace tidemark {

// The nodes of a backup, which live on one thread.
struct BackupNodes {
  Place* place;
  BlockNode* source;
  BlockNode* target;                             // null: still to be made
};
Task<BackupNodes> find_nodes(Homes& homes, const schema::BlockdevBackup& arguments);
Task<BackupNodes> find_nodes(Homes& homes, const schema::DriveBackup& arguments);

// The source is drained by the caller.  `group` is null for a backup that ends for itself.
Task<ManagedJob*> make_backup(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                              std::shared_ptr<JobTransaction> group);
// Makes or opens the target, too.
Task<ManagedJob*> make_backup(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                              std::shared_ptr<JobTransaction> group);

}  // namespace tidemark
