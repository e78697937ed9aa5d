// The verbs of `tidemark snapshot`: what each was asked to do, and the coroutine that does it.
//
// An external snapshot is a layer: what a disk held when an overlay was put on it.  An internal one is kept in a qcow2 image.
#pragma once

#include <string>
#include <vector>

#include "app/cli/chain/commands.hpp"
#include "app/cli/quiesce.hpp"

namespace tidemark::cli {

struct SnapshotCreateOptions {
  struct Disk {
    std::string name, overlay;           // overlay: the file to make; empty: beside the disk's, by the snapshot's name
  };
  std::vector<Disk> disks;
  bool live = false;
  std::string name;                      // of the snapshot; empty: the seconds since 1970
  bool internal = false;
  QuiesceOptions quiesce;
};
Task<Exit> snapshot_create(const Context& context, SnapshotCreateOptions options);

struct SnapshotListOptions {
  std::vector<ChainName> disks;
};
Task<Exit> snapshot_list(const Context& context, SnapshotListOptions options);

struct SnapshotRevertOptions {
  ChainName disk;
  std::string snapshot;                  // a layer as find_layer() takes it, or an internal one's id or name
  bool internal = false;
  std::string overlay;                   // the file that is the disk then; or
  bool discard = false;                  // the disk's own file, emptied
};
Task<Exit> snapshot_revert(const Context& context, SnapshotRevertOptions options);

struct SnapshotDeleteOptions {
  enum class Way : std::uint8_t { cheapest, pull, commit } way = Way::cheapest;
  ChainName disk;
  std::vector<std::string> snapshots;    // as above
  bool internal = false;
  std::uint64_t speed = 0;               // bytes a second of a daemon's jobs; 0: as fast as it goes
};
Task<Exit> snapshot_delete(const Context& context, SnapshotDeleteOptions options);

}  // namespace tidemark::cli
