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
    co_await start(std::move(arguments));
  };
  auto release = [&drained]() -> Task<> { return drained.release(); };
  co_await finally(work(), release);
}

Task<> BackupCommandHandler::start(schema::BlockdevBackup arguments) {
  ManagedJob* job = co_await make_backup(homes_, jobs_, std::move(arguments), nullptr);
  co_await jobs_.start_at_home(*job);
}

Task<> BackupCommandHandler::start(schema::DriveBackup arguments) {
  DriveImages images(homes_);
  auto job = co_await make_backup(homes_, jobs_, std::move(arguments), nullptr, images).result();
  Result<> ready;
  if (job) ready = co_await images.overwrite_all().result();
  else ready = job.error();
  if (ready) co_return co_await jobs_.start_at_home(**job);
  if (job) (void)co_await jobs_.abandon(**job).result();
  co_await images.undo();
  co_await ready.error();
}

Task<> BackupCommandHandler::blockdev_backup(schema::BlockdevBackup arguments) { return begin(std::move(arguments)); }
Task<> BackupCommandHandler::drive_backup(schema::DriveBackup arguments) { return begin(std::move(arguments)); }

}  // namespace tidemark
