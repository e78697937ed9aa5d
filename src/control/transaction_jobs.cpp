#include "control/transaction_jobs.hpp"

namespace tidemark {
namespace {

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

class BlockdevBackupAction final : public JobAction {
 public:
  BlockdevBackupAction(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments, std::shared_ptr<JobTransaction> group)
      : JobAction(homes, jobs), arguments_(std::move(arguments)), group_(std::move(group)) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> gather() override {
    std::vector<std::string> names{arguments_.device, arguments_.target};
    (void)co_await homes_.gather(std::move(names)).result();
  }
  Task<> prepare() override { job_ = co_await make_backup(homes_, jobs_, arguments_, group_); }

 private:
  const schema::BlockdevBackup arguments_;
  std::shared_ptr<JobTransaction> group_;
};

class DriveBackupAction final : public JobAction {
 public:
  DriveBackupAction(Homes& homes, JobManager& jobs, schema::DriveBackup arguments, std::shared_ptr<JobTransaction> group)
      : JobAction(homes, jobs), arguments_(std::move(arguments)), group_(std::move(group)), images_(homes) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> prepare() override { job_ = co_await make_backup(homes_, jobs_, arguments_, group_, images_); }
  Task<> overwrite() override { return images_.overwrite_all(); }
  Task<> abort() override {
    co_await JobAction::abort();
    co_await images_.undo();
  }

 private:
  const schema::DriveBackup arguments_;
  std::shared_ptr<JobTransaction> group_;
  DriveImages images_;
};

class MirrorAction final : public JobAction {
 public:
  MirrorAction(Homes& homes, JobManager& jobs, ChainAccess& access, schema::BlockdevMirror arguments)
      : JobAction(homes, jobs), access_(access), arguments_(std::move(arguments)) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> gather() override {
    std::vector<std::string> names{arguments_.device, arguments_.target};
    (void)co_await homes_.gather(std::move(names)).result();
  }
  Task<> prepare() override { job_ = co_await make_mirror(homes_, jobs_, access_, arguments_); }

 private:
  ChainAccess& access_;
  const schema::BlockdevMirror arguments_;
};

}  // namespace

std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                                                      std::shared_ptr<JobTransaction> group) {
  return std::make_unique<BlockdevBackupAction>(homes, jobs, std::move(arguments), std::move(group));
}

std::unique_ptr<TransactionAction> make_backup_action(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                                                      std::shared_ptr<JobTransaction> group) {
  return std::make_unique<DriveBackupAction>(homes, jobs, std::move(arguments), std::move(group));
}

std::unique_ptr<TransactionAction> make_mirror_action(Homes& homes, JobManager& jobs, ChainAccess& access,
                                                      schema::BlockdevMirror arguments) {
  return std::make_unique<MirrorAction>(homes, jobs, access, std::move(arguments));
}

}  // namespace tidemark
