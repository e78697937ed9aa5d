// CommandSet: who carries out QMP's commands, over one set of homes and jobs.  The one list of them, and the one order
// in which they end: a daemon has it behind its sockets, a simulation without.
#pragma once

#include "control/active_commands.hpp"
#include "control/amend_commands.hpp"
#include "control/backup_commands.hpp"
#include "control/bitmap_commands.hpp"
#include "control/chain_commands.hpp"
#include "control/chain_cost_commands.hpp"
#include "control/checkpoint_commands.hpp"
#include "control/command_lock.hpp"
#include "control/command_table.hpp"
#include "control/create_commands.hpp"
#include "control/exports.hpp"
#include "control/graph_commands.hpp"
#include "control/job_commands.hpp"
#include "control/mirror_commands.hpp"
#include "control/node_commands.hpp"
#include "control/object_commands.hpp"
#include "control/qom_commands.hpp"
#include "control/reopen_commands.hpp"
#include "control/self_commands.hpp"
#include "control/snapshot_commands.hpp"
#include "control/stats_commands.hpp"
#include "control/transaction_commands.hpp"

namespace tidemark {

// Homes, jobs, group and events outlive it; end() is awaited before it goes.
struct CommandSet {
  CommandSet(Homes& homes, JobManager& manager, TaskGroup& group, EventSink& events, schema::VersionInfo version,
             std::function<void()> quit);
  CommandSet(const CommandSet&) = delete;

  CommandTable table();                          // of what they answer; not longer than they are there

  // No command comes any more, jobs are cancelled, clients go, nodes are closed.  Each step is taken whatever the one
  // before it said; the first error is told.
  Task<> end(CommandLock& lock);

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
};

}  // namespace tidemark
