#include "control/backup_commands.hpp"

#include "control/backup_actions.hpp"
#include "control/drain_set.hpp"
#include "task/finally.hpp"

namespace tidemark {

// The point in time is while the source is drained.
template <class Arguments>
Task<> BackupCommandHandler::begin(Arguments arguments) {
  co_await find_nodes(homes_, arguments);
  DrainSet drained(homes_);
  auto work = [&]() -> Task<> {
    std::vector<std::string> source{arguments.device};
    co_await drained.add(std::move(source));
    ManagedJob* job = co_await make_backup(homes_, jobs_, std::move(arguments), nullptr);
    co_await jobs_.start_at_home(*job);
  };
  auto release = [&drained]() -> Task<> { return drained.release(); };
  co_await finally(work(), release);
}

Task<> BackupCommandHandler::blockdev_backup(schema::BlockdevBackup arguments) { return begin(std::move(arguments)); }
Task<> BackupCommandHandler::drive_backup(schema::DriveBackup arguments) { return begin(std::move(arguments)); }

}  // namespace tidemark
