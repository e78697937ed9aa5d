// checkpoint-create, checkpoint-delete, query-checkpoints: the first two are transactions of a single action.
#pragma once

#include "control/graph/homes.hpp"
#include "control/graph/transaction_action.hpp"
#include "control/qmp/commands/checkpoint.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

// With a group it is confirmed or undone when the jobs of the group have ended.
std::unique_ptr<TransactionAction> make_checkpoint_action(Homes& homes, schema::CheckpointCreate arguments,
                                                          std::shared_ptr<JobTransaction> group);
std::unique_ptr<TransactionAction> make_checkpoint_action(Homes& homes, schema::CheckpointDelete arguments,
                                                          std::shared_ptr<JobTransaction> group);

class CheckpointCommandHandler final : public CheckpointCommands {
 public:
  explicit CheckpointCommandHandler(Homes& homes) : homes_(homes) {}
  Task<> checkpoint_create(schema::CheckpointCreate arguments) override;
  Task<> checkpoint_delete(schema::CheckpointDelete arguments) override;
  Task<std::vector<schema::CheckpointInfo>> query_checkpoints() override;

 private:
  Homes& homes_;
};

}  // namespace tidemark
