// An overlay put on top of a node, as an action: what used the node uses the overlay from then on, and the node is only read.
//
// Invariants: what was written before is durable below the overlay before anything is written to the overlay; bitmaps stay with
// the node that they are of, and those that follow the disk are the overlay's, too.  Undone, the graph is as it was, and a file
// that was made is gone.
#pragma once

#include "control/graph/transaction_action.hpp"
#include "job/job_manager.hpp"
#include "schema/snapshot.hpp"

namespace tidemark {

std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshot arguments);
std::unique_ptr<TransactionAction> make_snapshot_action(Homes& homes, JobManager& jobs, schema::BlockdevSnapshotSync arguments);

}  // namespace tidemark
