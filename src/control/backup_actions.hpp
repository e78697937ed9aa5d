// Backups as QMP asks for them, up to jobs that are made and not started: so that a transaction can
// start several at one moment.
#pragma once

#include "control/homes.hpp"
#include "control/images_made.hpp"
#include "job/backup.hpp"
#include "schema/backup.hpp"

namespace tidemark {

// The nodes of a backup, which live on one thread.
struct BackupNodes {
  Place* place;
  BlockNode* source;
  BlockNode* target;                             // null: still to be made
};
Task<BackupNodes> find_nodes(Homes& homes, const schema::BlockdevBackup& arguments);
Task<BackupNodes> find_nodes(Homes& homes, const schema::DriveBackup& arguments);

// The files that drive-backups make.  One that is there loses its content when nothing else can fail any more:
// until then its job has a stand-in for a target.
class DriveImages {
 public:
  explicit DriveImages(Homes& homes) : homes_(homes) {}
  DriveImages(const DriveImages&) = delete;

  void made(std::string path) { made_.push_back(std::move(path)); }
  void overwrite(const BackupNodes& nodes, ManagedJob& job, std::string path, std::string format, BackingName below);

  // Once all jobs are made: empties the files and gives each to its job.
  Task<> overwrite_all();
  // Once all jobs are abandoned: files that were not there before go again.
  Task<> undo();

 private:
  struct Late {
    Place* place;
    BackupJob* job;
    std::string path, format;
    std::uint64_t size;
    BackingName below;
  };
  static Task<> give(Graph& graph, const Late& late);
  Homes& homes_;
  std::vector<Late> late_;
  std::vector<std::string> made_;
};

// The source is drained by the caller.  `group` is null for a backup that ends for itself.
Task<ManagedJob*> make_backup(Homes& homes, JobManager& jobs, schema::BlockdevBackup arguments,
                              std::shared_ptr<JobTransaction> group);
// Makes or opens the target, too, or, where that overwrites a file, leaves it to `images`.
Task<ManagedJob*> make_backup(Homes& homes, JobManager& jobs, schema::DriveBackup arguments,
                              std::shared_ptr<JobTransaction> group, DriveImages& images);

}  // namespace tidemark
