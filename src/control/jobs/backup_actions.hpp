// Backups as QMP asks for them, as actions: their jobs begin at one moment.
#pragma once

#include "control/graph/transaction_action.hpp"
#include "job/backup/backup.hpp"
#include "schema/backup.hpp"

namespace tidemark {

// `group` is null for a backup that ends for itself.
std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                                                      std::shared_ptr<JobTransaction> group);
// Makes or opens its target, too.  One that is there loses its content when nothing else can fail any more.
std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                                                      std::shared_ptr<JobTransaction> group);

}  // namespace tidemark
