#include "tests/sim/engine_daemon.hpp"

namespace tidemark::sim {
namespace {

Result<std::unique_ptr<IoBackend>> no_threads(const ThreadOptions&) { return Error(Errc::unsupported, "a simulation has one thread"); }

}  // namespace

SimDaemon::SimDaemon(Reactor& reactor, TaskGroup& group, const Workings& workings, JobEvents& jobs, TrackingListener tracking)
    : homes_(reactor, no_threads),
      lock_(reactor),
      jobs_(reactor, group, jobs),
      command_set_(homes_, jobs_, group, no_events_, {}, [] {}),
      commands_(command_set_.table()) {
  lock_.at_end([this] { return homes_.unpin(); });
  graph().set_workings(workings);
  graph().listeners().tracking = std::move(tracking);
}

Task<Json> SimDaemon::execute(std::string command, Json arguments) {
  const Command* found = commands_.find(command);
  TM_ASSERT(found);
  Task<Json> running = (*found)(std::move(arguments));
  co_return co_await lock_.run(std::move(running));
}

}  // namespace tidemark::sim
