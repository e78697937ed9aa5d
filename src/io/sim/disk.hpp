// SimDisk: the file system of a simulated machine, and the operations of IoOp on files and names.
//
// It survives crash(): SimFile says what is left of contents, SimNames of names; locks go, and of a
// file's change time either the present or the last that was synced is left.
//
// Tests build and look at a disk with the functions at the end, which are at once and durable.
#pragma once

#include <functional>
#include <span>

#include "io/sim/clock.hpp"
#include "io/sim/names.hpp"

namespace tidemark {

// An open file description; goes when its handle is closed and no operation uses it any more.
struct SimOpenFile {
  SimOpenFile(SimNodePtr n, OpenFlags f, std::uint64_t i) : node(std::move(n)), flags(f), id(i) {}
  SimOpenFile(const SimOpenFile&) = delete;
  ~SimOpenFile() { node->locks.drop(id); }

  SimNodePtr node;
  OpenFlags flags;
  std::uint64_t id;                       // owns locks
};

// What an operation knew when it started.
struct SimStart {
  std::uint64_t file_changes = 0, name_changes = 0;       // a sync makes those before it durable
  int fail_errno = 0;
  bool cut = false;
  bool interrupted = false;               // its process or machine dies: nothing is promised
};

class SimDisk {
 public:
  SimDisk(SimClock& clock, Prng& prng, const SimOptions& options)
      : clock_(clock), prng_(prng), options_(options) {}

  SimStart start(const SimOpenFile* file) const;
  // The result of an operation on an open file, or on names (`file` null): bytes, 0, or -errno.
  std::int64_t run(IoOp& op, SimOpenFile* file, const SimStart& start);
  // 0 and `file`, or -errno.
  std::int64_t open(IoOp& op, const SimStart& start, std::shared_ptr<SimOpenFile>& file);
  // A socket's name for a listener: made, or found with no listener behind it.
  std::int64_t bind(const std::string& path, const std::function<bool(std::uint64_t)>& in_use,
                    std::uint64_t& inode);
  SimNames::Place locate(const std::string& path) const { return names_.locate(path); }

  void crash(Prng& fates);
  // Makes this disk, which is new, as another one is.  The answer says which node is now which.
  using Nodes = std::map<const SimNode*, SimNodePtr>;
  Nodes become(const SimDisk& other);

  // Makes the directories that lead to `path` too.  `logical_block` is a device's.
  void make_directory(const std::string& path);
  void make_device(const std::string& path, std::uint64_t size, std::uint32_t logical_block = 512,
                   bool read_only = false);
  void resize_device(const std::string& path, std::uint64_t size);
  void import_file(const std::string& path, Bytes content);       // replaces
  void sync_all();                                                // as if all had been synced

  bool exists(const std::string& path) const { return file(path) != nullptr; }
  const SimFile* file(const std::string& path) const;             // null when there is none
  // The content that readers see.  The file exists, and has at most 4 GiB for the first form; the
  // second calls sink(offset, bytes) for its data, ascending, and returns its size.
  std::vector<std::byte> export_file(const std::string& path) const;
  std::uint64_t export_file(const std::string& path,
                            const std::function<void(std::uint64_t, Bytes)>& sink) const;
  std::uint64_t used() const noexcept { return space_.used; }

 private:
  // files.cpp
  std::int64_t read(IoOp& op, SimOpenFile& file, const SimStart& start);
  std::int64_t write(IoOp& op, SimOpenFile& file, const SimStart& start);
  std::int64_t sync(SimOpenFile& file, const SimStart& start);
  std::int64_t allocate(IoOp& op, SimOpenFile& file, const SimStart& start);
  std::int64_t truncate(IoOp& op, SimOpenFile& file, const SimStart& start);
  std::int64_t extent(IoOp& op, SimOpenFile& file);
  std::int64_t stat(IoOp& op, SimOpenFile* file);
  std::uint64_t cut(std::uint64_t length, const SimOpenFile& file, bool failed);
  bool has_space(const SimNode& node, Range range) const;
  void touch(SimNode& node) { node.change_time_ns = clock_.wall_ns(); }
  void synced(SimNode& node, const SimStart& start, const SimNode* directory);

  // paths.cpp
  std::int64_t rename(IoOp& op);
  std::int64_t link(IoOp& op);
  std::int64_t unlink(IoOp& op);
  std::int64_t mkdir(IoOp& op);
  std::int64_t rmdir(IoOp& op);
  std::int64_t list(IoOp& op);
  std::int64_t sync_dir(IoOp& op, const SimStart& start);
  SimNodePtr make_node(SimNode::Type type);
  std::int64_t create(const SimNames::Place& place, SimNodePtr& node);
  void place_node(const std::string& path, SimNodePtr node);

  SimClock& clock_;
  Prng& prng_;
  const SimOptions& options_;
  SimSpace space_;                        // outlives the files that count in it
  SimNames names_;
  std::uint64_t opened_ = 0;
};

}  // namespace tidemark
