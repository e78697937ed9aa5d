// Backups as QMP asks for them, up to jobs that are made and not started: so that a transaction can
// start several at one moment.
#pragma once

#include "block/graph.hpp"
#include "job/backup.hpp"
#include "schema/backup.hpp"

namespace tidemark {

// The source is drained by the caller.  `group` is null for a backup that ends for itself.
Task<ManagedJob*> make_backup(Graph& graph, JobManager& jobs, schema::BlockdevBackup arguments,
                              std::shared_ptr<JobTransaction> group);
// Makes or opens the target, too.
Task<ManagedJob*> make_backup(Graph& graph, JobManager& jobs, schema::DriveBackup arguments,
                              std::shared_ptr<JobTransaction> group);

}  // namespace tidemark
