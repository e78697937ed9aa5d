// The daemon without its sockets: QMP's commands, as their table has them, on a simulated process.
#pragma once

#include "control/backup_commands.hpp"
#include "control/bitmap_commands.hpp"
#include "control/command_lock.hpp"
#include "control/command_table.hpp"
#include "control/create_commands.hpp"
#include "control/exports.hpp"
#include "control/job_commands.hpp"
#include "control/node_commands.hpp"
#include "control/object_commands.hpp"
#include "control/self_commands.hpp"
#include "control/transaction_commands.hpp"

namespace tidemark::sim {

class SimDaemon {
 public:
  // `jobs` hears of all jobs at once; `tracking` what stores report.
  SimDaemon(Reactor& reactor, TaskGroup& group, const Workings& workings, JobEvents& jobs, TrackingListener tracking);
  SimDaemon(const SimDaemon&) = delete;

  // As a client's: in turn with all others.
  Task<Json> execute(std::string command, Json arguments = Json::object());
  Graph& graph() noexcept { return homes_.main().graph; }
  Task<> end();

 private:
  class NoEvents final : public EventSink {
    void send(std::string_view, Json) override {}
  };
  NoEvents no_events_;
  Homes homes_;
  CommandLock lock_;
  JobManager jobs_;
  SelfCommands self_commands_;
  NodeCommandHandler node_commands_;
  BitmapCommandHandler bitmap_commands_;
  JobCommandHandler job_commands_;
  BackupCommandHandler backup_commands_;
  CreateCommandHandler create_commands_;
  TransactionCommandHandler transaction_commands_;
  ObjectCommandHandler object_commands_;
  Exports exports_;
  CommandTable commands_;
};

}  // namespace tidemark::sim
