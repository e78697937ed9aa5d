// A disk becomes one of its snapshots again, as an action: while it is at rest and no client is connected to it.
//
// Invariants: what fails leaves the disk, its exports and its files as they were; cut off anywhere the disk's file is the old disk
// or the snapshot.  No bitmap that knew the disk before claims to know what it is now.
#pragma once

#include "control/exports/exports.hpp"
#include "control/graph/transaction_action.hpp"
#include "job/job_manager.hpp"
#include "schema/snapshot.hpp"

namespace tidemark {

// `durable`: outlives the action; an error when it was done and a crash of the host may undo it.
std::unique_ptr<TransactionAction> make_revert_action(Homes& homes, JobManager& jobs, Exports& exports,
                                                      schema::BlockdevSnapshotRevert arguments, Result<>& durable);

// When that has taken effect, and nothing is at rest any more: the node that was the disk, unless it is the monitor's and is
// not `gone`.
Task<> let_go_of_reverted(Homes& homes, std::string node, bool gone);

}  // namespace tidemark
