// Snapshots inside images, made and deleted.
#pragma once

#include "control/graph/transaction_action.hpp"
#include "job/job_manager.hpp"
#include "schema/snapshot.hpp"

namespace tidemark {

struct Qcow2Snapshot;

schema::SnapshotInfo describe_snapshot(const Qcow2Snapshot& snapshot);

// Undone, there is no such snapshot; where it cannot be deleted, the image keeps it.
std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotInternal arguments);

// The node is drained by the caller.
Task<schema::SnapshotInfo> delete_snapshot(Homes& homes, JobManager& jobs,
                                           schema::BlockdevSnapshotDeleteInternalSyncArguments arguments);

}  // namespace tidemark
