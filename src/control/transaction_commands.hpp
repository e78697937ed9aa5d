// transaction: several actions that take effect at one moment, or not at all.
//
// All nodes that the actions name are drained from before the first action until the last has taken
// effect, on whatever threads they are, so all points in time are the same and nothing is marked in
// between.  When one of them does not come to rest in time, nothing has changed.
#pragma once

#include "control/commands/transaction.hpp"
#include "control/exports.hpp"
#include "control/group_decisions.hpp"
#include "control/node_access.hpp"
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
