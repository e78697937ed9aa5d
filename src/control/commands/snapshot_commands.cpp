#include "control/commands/snapshot_commands.hpp"

#include "control/graph/drain_set.hpp"
#include "control/snapshots/external_snapshot.hpp"
#include "control/snapshots/internal_snapshot.hpp"
#include "control/snapshots/snapshot_revert.hpp"
#include "task/finally.hpp"

namespace tidemark {

template <class Arguments>
Task<> SnapshotCommandHandler::make(Arguments arguments) {
  TransactionActions actions;
  actions.push_back(make_snapshot_action(homes_, jobs_, std::move(arguments)));
  co_await carry_out(homes_, std::move(actions));
}

template Task<> SnapshotCommandHandler::make(schema::BlockdevSnapshot arguments);
template Task<> SnapshotCommandHandler::make(schema::BlockdevSnapshotSync arguments);
template Task<> SnapshotCommandHandler::make(schema::BlockdevSnapshotInternal arguments);

Task<schema::SnapshotInfo> SnapshotCommandHandler::blockdev_snapshot_delete_internal_sync(
    schema::BlockdevSnapshotDeleteInternalSyncArguments arguments) {
  DrainSet drained(homes_);
  auto work = [&]() -> Task<schema::SnapshotInfo> {
    std::vector<std::string> names{arguments.device};
    co_await drained.add(std::move(names));
    co_return co_await delete_snapshot(homes_, jobs_, arguments);
  };
  auto release = [&drained]() -> Task<> { return drained.release(); };
  co_return co_await finally(work(), release);
}

Task<> SnapshotCommandHandler::blockdev_snapshot_revert(schema::BlockdevSnapshotRevert arguments) {
  Result<> durable;
  TransactionActions actions;
  actions.push_back(make_revert_action(homes_, jobs_, exports_, arguments, durable));
  co_await carry_out(homes_, std::move(actions));
  if (arguments.mode != schema::SnapshotRevertMode::internal)
    co_await let_go_of_reverted(homes_, arguments.node_name, arguments.mode == schema::SnapshotRevertMode::discard);
  co_await unwrap(durable);
}

}  // namespace tidemark
