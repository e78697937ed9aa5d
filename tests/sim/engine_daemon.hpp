// The daemon without its sockets: QMP's commands, as their table has them, on a simulated process.
#pragma once

#include "control/commands/command_set.hpp"

namespace tidemark::sim {

class SimDaemon {
 public:
  // `jobs` hears of all jobs at once; `tracking` what stores report.
  SimDaemon(Reactor& reactor, TaskGroup& group, const Workings& workings, JobEvents& jobs, TrackingListener tracking);
  SimDaemon(const SimDaemon&) = delete;

  // As a client's: in turn with all others.
  Task<Json> execute(std::string command, Json arguments = Json::object());
  Graph& graph() noexcept { return homes_.main().graph; }
  Task<> end() { return command_set_.end(lock_); }

 private:
  class NoEvents final : public EventSink {
    void send(std::string_view, Json) override {}
  };
  NoEvents no_events_;
  Homes homes_;
  CommandLock lock_;
  JobManager jobs_;
  CommandSet command_set_;
  CommandTable commands_;
};

}  // namespace tidemark::sim
