#include "control/commands/command_set.hpp"

namespace tidemark {

CommandSet::CommandSet(Homes& homes, JobManager& manager, TaskGroup& group, EventSink& events,
                       schema::VersionInfo version, std::function<void()> quit)
    : self(std::move(version), std::move(quit)),
      nodes(homes, manager, made),
      bitmaps(homes),
      jobs(manager),
      backups(homes, manager),
      chains(homes, manager),
      chain_costs(homes),
      mirrors(homes, manager),
      images(homes, manager),
      amendments(homes, manager),
      transactions(homes, manager, exports),
      checkpoints(homes),
      snapshots(homes, manager, exports),
      graph(homes, manager),
      reopening(homes, manager),
      stats(homes),
      objects(homes, manager, made),
      qom(homes, made),
      exports(homes, group, events),
      handing_over(homes, manager, exports),
      homes_(homes),
      manager_(manager) {}

CommandTable CommandSet::table() {
  return command_table({.active = handing_over,
                        .bitmap = bitmaps,
                        .graph = graph,
                        .node = nodes,
                        .amend = amendments,
                        .job = jobs,
                        .block_job = jobs,
                        .backup = backups,
                        .chain = chains,
                        .chain_cost = chain_costs,
                        .checkpoint = checkpoints,
                        .control = self,
                        .create = images,
                        .export_ = exports,
                        .info = nodes,
                        .introspect = self,
                        .mirror = mirrors,
                        .object = objects,
                        .qom = qom,
                        .reopen = reopening,
                        .snapshot = snapshots,
                        .stats = stats,
                        .transaction = transactions});
}

Task<> CommandSet::end(CommandLock& lock) {
  co_await lock.close();
  commands_over_ = true;
  auto users = [this](TaskGroup& group) -> Task<> {
    group.spawn(exports.stop());
    group.spawn(manager_.cancel_all());
    co_await group.join();
  };
  auto gone = co_await with_group(homes_.main().reactor, users).result();
  auto closed = co_await homes_.close_all().result();
  if (!gone) co_await gone.error();
  if (!closed) co_await closed.error();
}

Task<> CommandSet::close_unused() {
  if (!commands_over_) co_return;
  auto everywhere = [this](TaskGroup& group) -> Task<> {
    for (Place* place : homes_.all()) group.spawn(manager_.close_unused(place->graph));
    co_await group.join();
  };
  co_await with_group(homes_.main().reactor, everywhere);
}

}  // namespace tidemark
