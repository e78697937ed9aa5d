// The actions of a transaction that start jobs.
#pragma once

#include "control/backup_actions.hpp"
#include "control/mirror_actions.hpp"
#include "control/transaction_action.hpp"

namespace tidemark {

// `group` is null for a backup that ends for itself.
std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                                                      std::shared_ptr<JobTransaction> group);
std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                                                      std::shared_ptr<JobTransaction> group);

// Ends for itself: when it does is for its user to say.
std::unique_ptr<TransactionAction> make_mirror_action(Homes& homes, JobManager& jobs, ChainAccess& access,
                                                      schema::BlockdevMirror arguments);

}  // namespace tidemark
