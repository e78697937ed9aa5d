#include "control/transaction_backups.hpp"

namespace tidemark {
namespace {

class BackupAction : public TransactionAction {
 public:
  BackupAction(Homes& homes, JobManager& jobs, std::shared_ptr<JobTransaction> group)
      : homes_(homes), jobs_(jobs), group_(std::move(group)) {}

  Task<> begin() override { co_await jobs_.start_at_home(*job_); }
  Task<> abort() override {
    if (job_) (void)co_await jobs_.abandon(*job_).result();
  }

 protected:
  Homes& homes_;
  JobManager& jobs_;
  std::shared_ptr<JobTransaction> group_;
  ManagedJob* job_ = nullptr;
};

class BlockdevBackupAction final : public BackupAction {
 public:
  BlockdevBackupAction(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments, std::shared_ptr<JobTransaction> group)
      : BackupAction(homes, jobs, std::move(group)), arguments_(std::move(arguments)) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> gather() override {
    std::vector<std::string> names{arguments_.device, arguments_.target};
    (void)co_await homes_.gather(std::move(names)).result();
  }
  Task<> prepare() override { job_ = co_await make_backup(homes_, jobs_, arguments_, group_); }

 private:
  const schema::BlockdevBackup arguments_;
};

class DriveBackupAction final : public BackupAction {
 public:
  DriveBackupAction(Homes& homes, JobManager& jobs, schema::DriveBackup arguments, std::shared_ptr<JobTransaction> group)
      : BackupAction(homes, jobs, std::move(group)), arguments_(std::move(arguments)), images_(homes) {}

  std::vector<std::string> nodes() const override { return {arguments_.device}; }
  Task<> prepare() override { job_ = co_await make_backup(homes_, jobs_, arguments_, group_, images_); }
  Task<> overwrite() override { return images_.overwrite_all(); }
  Task<> abort() override {
    co_await BackupAction::abort();
    co_await images_.undo();
  }

 private:
  const schema::DriveBackup arguments_;
  DriveImages images_;
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

}  // namespace tidemark
