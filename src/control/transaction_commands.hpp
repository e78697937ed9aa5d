// transaction: several actions that take effect at one moment, or not at all.
//
// All nodes that the actions name are drained from before the first action until the last has taken
// effect, on whatever threads they are, so all points in time are the same and nothing is marked in
// between.  When one of them does not come to rest in time, nothing has changed.
#pragma once

#include "block/transaction.hpp"
#include <map>

#include "control/backup_actions.hpp"
#include "control/commands/transaction.hpp"
#include "control/homes.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class TransactionCommandHandler final : public TransactionCommands {
 public:
  TransactionCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> transaction(schema::TransactionArguments arguments) override;

 private:
  struct Made {
    std::map<Place*, Transaction> undo;          // each on its thread
    std::map<std::string, Place*> changed;       // nodes whose bitmaps were
    std::vector<ManagedJob*> jobs;
    DriveImages images;
  };
  Task<> bring_together(const schema::TransactionArguments& arguments);
  Task<> carry_out(schema::TransactionArguments& arguments);
  Task<> save(Made& made, bool committed);
  Task<> commit(Made& made);
  Task<> abort(Made& made);
  Task<> prepare_all(schema::TransactionArguments& arguments, Made& made);
  Task<> prepare(schema::TransactionAction& action, Made& made, std::shared_ptr<JobTransaction> group);
  Task<> prepare_bitmap(const schema::TransactionAction& action, Made& made);

  Homes& homes_;
  JobManager& jobs_;
};

}  // namespace tidemark
