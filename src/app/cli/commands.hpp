// The commands of `tidemark`: what each was asked to do, and the coroutine that does it.  main.cpp
// fills the options from the command line; nothing here knows of argv.
#pragma once

#include <string>
#include <vector>

#include "app/cli/context.hpp"
#include "app/cli/quiesce.hpp"
#include "backup/plan.hpp"

namespace tidemark::cli {

struct DiskChoice {
  std::string node;
  std::string name;                      // in the backup directory; the node's when not given
};

struct BackupOptions {
  std::string directory;
  std::vector<DiskChoice> disks;         // none: every node that is exported writable
  BackupLevel level = BackupLevel::automatic;
  bool compress = false;
  std::uint64_t speed = 0;               // bytes a second, 0: as fast as it goes
  std::string checkpoint;                // to take at the same moment; empty: none
  std::string since;                     // one of an earlier point, to build on that; empty: the level says
  std::string machine_file;              // JSON to keep with the point
  // Where old data waits for a slow directory; what is not given is the daemon's choice.
  std::uint64_t staging_budget = 0;      // bytes
  std::string spill_directory;
  std::string on_staging_full;           // fail, throttle
  QuiesceOptions quiesce;
};
Task<Exit> backup(const Context& context, BackupOptions options);

struct CopyOptions {
  std::string disk;                      // an export, or a node
  std::string file;
  std::uint64_t speed = 0;               // bytes a second, 0: as fast as it goes
  bool force = false;                    // replace an existing file
};
Task<Exit> copy(const Context& context, CopyOptions options);

struct RestoreOptions {
  std::string directory;
  std::string point = "latest";
  std::string disk;                      // may be empty when the point holds one disk
  std::string to;
  std::string format;                    // raw, qcow2
  bool force = false;                    // replace an existing file
};
Task<Exit> restore(const Context& context, RestoreOptions options);

Task<Exit> list(const Context& context, std::string directory);

struct VerifyOptions {
  std::string directory;
  std::string point = "latest";
  bool all = false;
};
Task<Exit> verify(const Context& context, VerifyOptions options);

struct BitmapOptions {
  enum class Verb : std::uint8_t { list, add, remove, clear, enable, disable, merge } verb = Verb::list;
  std::string node, name;
  std::uint64_t granularity = 0;         // 0: the daemon's default
  bool disabled = false, persistent = false, follows_disk = false;
  std::vector<std::string> sources;      // merge
};
Task<Exit> bitmap(const Context& context, BitmapOptions options);

struct CheckpointOptions {
  enum class Verb : std::uint8_t { create, list, show, remove } verb = Verb::list;
  std::string name;
  std::vector<std::string> disks;        // create: none is all that are exported writable; remove: none is all that have it
  std::uint64_t granularity = 0;         // 0: the daemon's default
  bool transient = false;
  QuiesceOptions quiesce;
};
Task<Exit> checkpoint(const Context& context, CheckpointOptions options);

struct JobOptions {
  enum class Verb : std::uint8_t { list, watch, pause, resume, complete, finalize, dismiss, cancel, set_speed } verb = Verb::list;
  std::string id;
  std::uint64_t speed = 0;
  bool force = false;
};
Task<Exit> job(const Context& context, JobOptions options);

struct QmpOptions {
  std::string command;                   // empty: read commands from standard input
  std::vector<std::string> arguments;    // KEY=VALUE as the schema has it, or one JSON object
};
Task<Exit> qmp(const Context& context, QmpOptions options);

struct ServeOptions {
  std::vector<std::string> disks;        // FILE, FILE=NAME
  std::string format;                    // of all disks; empty: by content and name
  std::string nbd_socket, nbd_tcp;
  bool read_only = false, direct = false;
};
// Becomes tidemarkd; returns only when it cannot.
Exit serve(const std::string& qmp_socket, const ServeOptions& options, bool json);

}  // namespace tidemark::cli
