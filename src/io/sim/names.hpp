// SimNames: the directories of a simulated disk, and what a crash leaves of changes to them.
//
// A change of names (create, link, unlink, rename, mkdir, rmdir) sets one or two entries to a node
// or to nothing, atomically.  It is seen at once, and kept in `journal_` until it is durable.
//
// What a crash leaves:
//  * `posix`: each change that is not durable happened or did not; only not one whose entry an
//    earlier change set that did not happen (so a rename never loses the file it moves).
//  * `ordered`: the changes up to some point.
//  * A node that no entry names is gone; so are sockets' listeners and unlinked open files.
//
// Links are not followed since there are none; ".." is taken out of a path as text.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/sim/file.hpp"
#include "io/sim/locks.hpp"
#include "io/sim/options.hpp"

namespace tidemark {

struct SimNode;
using SimNodePtr = std::shared_ptr<SimNode>;
using SimEntries = std::map<std::string, SimNodePtr>;

struct SimNode {
  enum class Type : std::uint8_t { regular, device, directory, socket } type;
  std::uint64_t inode;
  std::unique_ptr<SimFile> file;                // regular, device
  SimEntries entries, durable_entries;          // directory
  SimLocks locks;
  std::uint32_t logical_block = 512;
  bool read_only = false;                       // device
  std::int64_t change_time_ns = 0, durable_change_time_ns = 0;

  bool is_directory() const noexcept { return type == Type::directory; }
};

class SimNames {
 public:
  SimNames();

  // The names of another disk, with nodes of their own: `copy` returns a node's.
  using CopyNode = std::function<SimNodePtr(const SimNodePtr&)>;
  void become(const SimNames& other, const CopyNode& copy);

  // Where a path leads.  `error` is 0 when its directory exists; `node` may still be empty.
  struct Place {
    int error = 0;                              // a negative errno
    SimNodePtr directory;                       // empty for the root
    std::string name;
    SimNodePtr node;
  };
  Place locate(const std::string& path) const;

  SimNodePtr make(SimNode::Type type);          // a new node that nothing names yet
  void set(const Place& place, SimNodePtr node);
  void move(const Place& from, const Place& to);

  std::uint64_t changes_made() const noexcept { return made_; }
  // Makes durable those of the first `count` changes ever made that concern `directory`, and what
  // they build on; without a directory, all of them.
  void sync(const SimNode* directory, std::uint64_t count);
  void crash(Prng& prng, SimOptions::Names model);

  // Every node that a path leads to, by inode.
  std::map<std::uint64_t, SimNodePtr> reachable() const;

 private:
  struct Setting {
    SimNodePtr directory;
    std::string name;
    SimNodePtr node;                            // empty: no such entry
  };
  struct Change {
    std::uint64_t number;
    std::vector<Setting> settings;
    bool durable = false;
  };
  using Slot = std::pair<std::uint64_t, std::string>;       // the directory's inode, the name
  void record(std::vector<Setting> settings);
  void settle();

  std::uint64_t last_inode_ = 0;
  SimNodePtr root_;                             // made with the first inode
  std::vector<Change> journal_;
  std::uint64_t made_ = 0;
};

}  // namespace tidemark
