#include "control/commands/transaction_commands.hpp"

#include <fmt/format.h>

#include "control/bitmaps/transaction_bitmaps.hpp"
#include "control/commands/checkpoint_commands.hpp"
#include "control/exports/export_actions.hpp"
#include "control/jobs/backup_actions.hpp"
#include "control/jobs/transaction_jobs.hpp"
#include "control/snapshots/external_snapshot.hpp"
#include "control/snapshots/internal_snapshot.hpp"

namespace tidemark {
namespace {

using Kind = schema::TransactionActionKind;
using ActionPtr = std::unique_ptr<TransactionAction>;

// Fails in its turn.
class Refused final : public TransactionAction {
 public:
  explicit Refused(Error error) : error_(std::move(error)) {}
  Task<> prepare() override { co_await error_; }

 private:
  Error error_;
};

// What all actions of a transaction have in common.
struct Setting {
  Homes& homes;
  JobManager& jobs;
  Exports& exports;
  ChainAccess& access;
  bool grouped;
  std::shared_ptr<JobTransaction> group;           // null unless grouped
  std::shared_ptr<UnsavedNodes> unsaved = std::make_shared<UnsavedNodes>();
};

bool can_be_grouped(Kind kind) noexcept {
  switch (kind) {
    case Kind::block_export_add:
    case Kind::blockdev_mirror:
    case Kind::blockdev_snapshot:
    case Kind::blockdev_snapshot_internal_sync:
    case Kind::blockdev_snapshot_sync: return false;
    default: return true;
  }
}

ActionPtr make_action(const Setting& setting, schema::TransactionAction& action) {
  if (setting.grouped && !can_be_grouped(action.type))
    return std::make_unique<Refused>(
        Error(Errc::unsupported, fmt::format("Action '{}' does not support transaction property completion-mode = grouped",
                                             schema::to_string(action.type))));
  if (is_about_bitmap(action)) return make_bitmap_action(setting.homes, std::move(action), setting.unsaved, setting.group);
  if (auto* backup = std::get_if<schema::BlockdevBackupWrapper>(&action.branch))
    return make_backup_action(setting.homes, setting.jobs, std::move(backup->data), setting.group);
  if (auto* backup = std::get_if<schema::DriveBackupWrapper>(&action.branch))
    return make_backup_action(setting.homes, setting.jobs, std::move(backup->data), setting.group);
  if (auto* mirror = std::get_if<schema::BlockdevMirrorWrapper>(&action.branch))
    return make_mirror_action(setting.homes, setting.jobs, setting.access, std::move(mirror->data));
  if (auto* create = std::get_if<schema::CheckpointCreateWrapper>(&action.branch))
    return make_checkpoint_action(setting.homes, std::move(create->data), setting.group);
  if (auto* remove = std::get_if<schema::CheckpointDeleteWrapper>(&action.branch))
    return make_checkpoint_action(setting.homes, std::move(remove->data), setting.group);
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotWrapper>(&action.branch))
    return make_snapshot_action(setting.homes, setting.jobs, std::move(snapshot->data));
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotSyncWrapper>(&action.branch))
    return make_snapshot_action(setting.homes, setting.jobs, std::move(snapshot->data));
  if (auto* snapshot = std::get_if<schema::BlockdevSnapshotInternalWrapper>(&action.branch))
    return make_snapshot_action(setting.homes, setting.jobs, std::move(snapshot->data));
  if (auto* added = std::get_if<schema::BlockExportAddWrapper>(&action.branch))
    return make_export_action(setting.exports, std::move(added->data));
  return std::make_unique<Refused>(Error(Errc::cancelled, "Transaction aborted using Abort action"));
}

}  // namespace

Task<> TransactionCommandHandler::transaction(schema::TransactionArguments arguments) {
  const bool grouped = arguments.properties && arguments.properties->completion_mode == schema::ActionCompletionMode::grouped;
  Setting setting{homes_, jobs_, exports_, access_, grouped, nullptr};
  const auto decide = [this](std::uint64_t group, JobTransaction::Homes homes) { return decisions_.decide(group, std::move(homes)); };
  if (grouped) setting.group = jobs_.new_group(decide);
  TransactionActions actions;
  for (auto& action : arguments.actions) actions.push_back(make_action(setting, action));
  const Result<> done = co_await carry_out(homes_, std::move(actions)).result();
  Result<> ended;
  if (setting.group) ended = co_await jobs_.all_started(setting.group).result();
  co_await unwrap(done);
  co_await unwrap(ended);
}

}  // namespace tidemark
