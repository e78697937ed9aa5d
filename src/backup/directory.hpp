// BackupDirectory: points in time in a directory (docs/formats/backup-directory.md).
//
//   DIR/tidemark-backup.json        what this directory is, and its id
//   DIR/lock                        held exclusively by whoever changes the directory
//   DIR/points/ID/manifest.json     one point; ID/DISK.qcow2, ID/DISK.sums of each disk
//   DIR/points/.new-ID/             one being written: litter when nobody holds the lock
//   DIR/checkpoint.json             the checkpoint that is taken with that one
//
// Invariant: a point appears under its name only whole and durable.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "backup/manifest.hpp"
#include "io/file.hpp"

namespace tidemark {

struct DamagedPoint {
  std::string id;
  Error why;
  std::string line() const { return id + ": " + why.message(); }
};

// A checkpoint that is taken with the point that is being written.  Before that the `bitmap` of it is not known: whether it was
// taken, and which one it is, can be told by the point's bitmaps and the time.
struct CheckpointNote {
  std::string name, point;
  std::int64_t noted_ns = 0;
  std::string bitmap;
};

class BackupDirectory {
 public:
  enum class Open : std::uint8_t {
    read,            // the directory exists
    write,           // exists; takes the lock and removes litter
    create,          // as write, made when it does not exist or is empty; see retract()
  };
  static Task<BackupDirectory> open(Reactor& reactor, std::string path, Open how);
  BackupDirectory(BackupDirectory&&) = default;
  Task<> close();

  const std::string& path() const noexcept { return path_; }
  const std::string& id() const noexcept { return id_; }          // 16 hex digits

  // Oldest first.  Points whose manifest is damaged, or cannot be read, are left out and told in `damaged`.
  const std::vector<PointManifest>& points() const noexcept { return points_; }
  const std::vector<DamagedPoint>& damaged() const noexcept { return damaged_; }
  // By id, by a beginning that no other has, damaged or not, or "latest": an error when one that may be later is damaged.
  Result<const PointManifest*> find(std::string_view name) const;
  // The point, which has `disk`, and those it builds on for that, newest first.
  Result<std::vector<const PointManifest*>> chain(const PointManifest& point, std::string_view disk) const;

  std::string point_path(std::string_view id) const { return path_ + "/points/" + std::string(id); }
  std::string new_path(std::string_view id) const { return path_ + "/points/.new-" + std::string(id); }

  // The steps of a new point, with the lock held: begin, the caller's files, then publish or discard.
  Task<std::string> begin_point();                    // its id
  // Now, but later than the last point: what the host's clock does, points keep their order.
  std::int64_t point_time() const;
  Task<> publish(PointManifest manifest);             // whole and durable when it returns
  Task<> discard(std::string id);

  // With the lock held.  Who dies leaves the checkpoint to the next writer, to whom it is told unless the point was published.
  Task<> note_checkpoint(CheckpointNote note);
  Task<std::optional<CheckpointNote>> noted_checkpoint();
  Task<> forget_checkpoint();

  // After a failure, with the lock held: a backup directory that this object has made goes again, unless it
  // holds points.  A directory that was there before stays, empty as it was.
  Task<> retract();

 private:
  BackupDirectory(Reactor& reactor, std::string path) : reactor_(&reactor), path_(std::move(path)) {}
  Task<> open_now(Open how);
  Task<> open_locked(Open how);
  Task<> make_directory();
  Task<> make_content();
  Task<> retract_content();
  Task<> check_usable() const;
  Task<> check_empty() const;
  Task<> take_lock();
  Error in_use() const;
  Task<File> open_lock_file();
  Task<std::string> read_marker();
  Task<std::vector<std::string>> names_of_points() const;
  Task<> load();
  Task<> sweep();
  Task<> remove_tree(std::string path);

  Reactor* reactor_;
  std::string path_, id_;
  File lock_;
  bool locked_ = false, made_directory_ = false, made_content_ = false;
  std::int64_t begun_ns_ = 0;
  std::vector<PointManifest> points_;
  std::vector<DamagedPoint> damaged_;
};

}  // namespace tidemark
