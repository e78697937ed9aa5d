// transaction: several actions that take effect at one moment, or not at all.
//
// All nodes that the actions name are drained from before the first action until the last has taken
// effect, on whatever threads they are, so all points in time are the same and nothing is marked in
// between.  When one of them does not come to rest in time, nothing has changed.
#pragma once

#include "control/bitmaps/group_decisions.hpp"
#include "control/exports/exports.hpp"
#include "control/jobs/node_access.hpp"
#include "control/qmp/commands/transaction.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class TransactionCommandHandler final : public TransactionCommands {
 public:
  TransactionCommandHandler(Homes& homes, JobManager& jobs, Exports& exports)
      : homes_(homes), jobs_(jobs), exports_(exports), decisions_(homes) {}
  Task<> transaction(schema::TransactionArguments arguments) override;

 private:
  Homes& homes_;
  JobManager& jobs_;
  Exports& exports_;
  NodeAccess access_;
  GroupDecisions decisions_;
};

}  // namespace tidemark
