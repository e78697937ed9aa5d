// The actions of a transaction that start jobs.
#pragma once

#include "control/graph/transaction_action.hpp"
#include "control/jobs/mirror_actions.hpp"

namespace tidemark {

// One whose prepare() makes a job.
class JobAction : public TransactionAction {
 public:
  JobAction(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}

  Task<> begin() override { co_await jobs_.start_at_home(*job_); }
  Task<> abort() override {
    if (job_) (void)co_await jobs_.abandon(*job_).result();
  }

 protected:
  Homes& homes_;
  JobManager& jobs_;
  ManagedJob* job_ = nullptr;
};

// Ends for itself: when it does is for its user to say.
std::unique_ptr<TransactionAction> make_mirror_action(Homes& homes, JobManager& jobs, ChainAccess& access,
                                                      schema::BlockdevMirror arguments);

}  // namespace tidemark
