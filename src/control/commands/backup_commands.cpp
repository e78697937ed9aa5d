#include "control/commands/backup_commands.hpp"

#include "control/jobs/backup_actions.hpp"

namespace tidemark {

template <class Arguments>
Task<> BackupCommandHandler::begin(Arguments arguments) {
  TransactionActions actions;
  actions.push_back(make_backup_action(homes_, jobs_, std::move(arguments), nullptr));
  co_await carry_out(homes_, std::move(actions));
}

Task<> BackupCommandHandler::blockdev_backup(schema::BlockdevBackup arguments) { return begin(std::move(arguments)); }
Task<> BackupCommandHandler::drive_backup(schema::DriveBackup arguments) { return begin(std::move(arguments)); }

}  // namespace tidemark
