#include "control/backup_commands.hpp"

#include "control/backup_actions.hpp"

namespace tidemark {

// The point in time is while the source is drained.
template <class Arguments>
Task<> BackupCommandHandler::begin(Arguments arguments) {
  BlockNode* source = co_await unwrap(graph_.lookup(arguments.device));
  auto drained = co_await graph_.drain(*source);
  ManagedJob* job = co_await make_backup(graph_, jobs_, std::move(arguments), nullptr);
  jobs_.start(*job);
}

Task<> BackupCommandHandler::blockdev_backup(schema::BlockdevBackup arguments) { return begin(std::move(arguments)); }
Task<> BackupCommandHandler::drive_backup(schema::DriveBackup arguments) { return begin(std::move(arguments)); }

}  // namespace tidemark
