// transaction: several actions that take effect at one moment, or not at all.
//
// All nodes that the actions name are drained from before the first action until the last has taken
// effect, so all points in time are the same and nothing is marked in between.
#pragma once

#include "block/graph.hpp"
#include "block/transaction.hpp"
#include "control/commands/transaction.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class TransactionCommandHandler final : public TransactionCommands {
 public:
  TransactionCommandHandler(Graph& graph, JobManager& jobs) : graph_(graph), jobs_(jobs) {}
  Task<> transaction(schema::TransactionArguments arguments) override;

 private:
  struct Made {
    Transaction undo;
    std::vector<ManagedJob*> jobs;
  };
  Task<> drain_all(const schema::TransactionArguments& arguments, std::vector<Graph::DrainGuard>& drained);
  Task<> prepare_all(schema::TransactionArguments& arguments, Made& made);
  Task<> prepare(schema::TransactionAction& action, Made& made, std::shared_ptr<JobTransaction> group);

  Graph& graph_;
  JobManager& jobs_;
};

}  // namespace tidemark
