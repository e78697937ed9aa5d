// CommandSet: who carries out QMP's commands, over one set of homes and jobs.  The one list of them, and the one order
// in which they end: a daemon has it behind its sockets, a simulation without.
#pragma once

#include "control/commands/active_commands.hpp"
#include "control/commands/amend_commands.hpp"
#include "control/commands/backup_commands.hpp"
#include "control/commands/bitmap_commands.hpp"
#include "control/commands/chain_commands.hpp"
#include "control/commands/chain_cost_commands.hpp"
#include "control/commands/checkpoint_commands.hpp"
#include "control/commands/create_commands.hpp"
#include "control/commands/graph_commands.hpp"
#include "control/commands/job_commands.hpp"
#include "control/commands/mirror_commands.hpp"
#include "control/commands/node_commands.hpp"
#include "control/commands/object_commands.hpp"
#include "control/commands/qom_commands.hpp"
#include "control/commands/reopen_commands.hpp"
#include "control/commands/snapshot_commands.hpp"
#include "control/commands/stats_commands.hpp"
#include "control/commands/transaction_commands.hpp"
#include "control/exports/exports.hpp"
#include "control/qmp/command_lock.hpp"
#include "control/qmp/command_table.hpp"
#include "control/qmp/self_commands.hpp"

namespace tidemark {

// Homes, jobs, group and events outlive it; end() is awaited before it goes.
struct CommandSet {
  CommandSet(Homes& homes, JobManager& manager, TaskGroup& group, EventSink& events, schema::VersionInfo version,
             std::function<void()> quit);
  CommandSet(const CommandSet&) = delete;

  CommandTable table();                          // of what they answer; not longer than they are there

  // No command comes any more, jobs are cancelled and clients go, nodes are closed.  Each step is taken whatever the one
  // before it said; the first error is told.
  Task<> end(CommandLock& lock);
  // For when that hangs: closes the nodes that nothing uses which hangs; none while a command does.
  Task<> close_unused();
  bool commands_over() const noexcept { return commands_over_; }

  Objects made;
  SelfCommands self;
  NodeCommandHandler nodes;
  BitmapCommandHandler bitmaps;
  JobCommandHandler jobs;
  BackupCommandHandler backups;
  ChainCommandHandler chains;
  ChainCostCommandHandler chain_costs;
  MirrorCommandHandler mirrors;
  CreateCommandHandler images;
  AmendCommandHandler amendments;
  TransactionCommandHandler transactions;
  CheckpointCommandHandler checkpoints;
  SnapshotCommandHandler snapshots;
  GraphCommandHandler graph;
  ReopenCommandHandler reopening;
  StatsCommandHandler stats;
  ObjectCommandHandler objects;
  QomCommandHandler qom;
  Exports exports;
  ActiveCommandHandler handing_over;

 private:
  Homes& homes_;
  JobManager& manager_;
  bool commands_over_ = false;
};

}  // namespace tidemark
