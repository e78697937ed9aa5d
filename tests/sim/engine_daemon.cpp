#include "tests/sim/engine_daemon.hpp"

namespace tidemark::sim {
namespace {

Result<std::unique_ptr<IoBackend>> no_threads(const ThreadOptions&) { return Error(Errc::unsupported, "a simulation has one thread"); }

}  // namespace

SimDaemon::SimDaemon(Reactor& reactor, TaskGroup& group, const Workings& workings, JobEvents& jobs, TrackingListener tracking)
    : homes_(reactor, no_threads),
      lock_(reactor),
      jobs_(reactor, group, jobs),
      self_commands_({}, [] {}),
      node_commands_(homes_),
      bitmap_commands_(homes_),
      job_commands_(jobs_),
      backup_commands_(homes_, jobs_),
      create_commands_(homes_, jobs_),
      transaction_commands_(homes_, jobs_),
      object_commands_(homes_, jobs_),
      exports_(homes_, group, no_events_),
      commands_(command_table({.job = job_commands_,
                               .block_job = job_commands_,
                               .bitmap = bitmap_commands_,
                               .node = node_commands_,
                               .backup = backup_commands_,
                               .control = self_commands_,
                               .create = create_commands_,
                               .export_ = exports_,
                               .info = node_commands_,
                               .introspect = self_commands_,
                               .object = object_commands_,
                               .transaction = transaction_commands_})) {
  graph().set_workings(workings);
  graph().listen_to_tracking(std::move(tracking));
}

Task<Json> SimDaemon::execute(std::string command, Json arguments) {
  const Mutex::Guard turn = co_await lock_.enter();
  const Command* found = commands_.find(command);
  TM_ASSERT(found);
  co_return co_await (*found)(std::move(arguments));
}

// As tidemarkd ends.
Task<> SimDaemon::end() {
  co_await lock_.close();
  co_await jobs_.cancel_all();
  auto served = co_await exports_.stop().result();
  auto closed = co_await homes_.close_all().result();
  if (!served) co_await served.error();
  if (!closed) co_await closed.error();
}

}  // namespace tidemark::sim
