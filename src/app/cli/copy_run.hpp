// CopyRun: a file of a disk in use, by way of a temporary overlay.
//
//   overlay   an image on top of the disk's, locked for as long as the run lasts
//   snapshot  guests write to it from now on, and the disk's own file is at rest
//   copy      that file: cloned where the file system can, else its data
//   merge     the overlay into the disk again (block-commit of the layer that guests write to, which empties it before guests go
//             over), and remove it
//
// Overlay, node and job bear a name of the run's own.  Overlays of that kind that nobody has locked are what a run before has left:
// on top of the disk they are merged, empty they are removed, and others have what guests wrote when a daemon ended.
//
// Invariant: after run() has returned, however, the disk stands on its own file again and nothing of the overlay is left; or
// the error says what is left and why, and the next run sees to it.  The file appears when all of that went well.
#pragma once

#include <string>

#include "app/cli/commands.hpp"
#include "app/cli/progress.hpp"
#include "io/file.hpp"

namespace tidemark::cli {

// Errors when a daemon has ended during a copy of the image: what guests wrote then lies beside it, and is part of the disk.
Task<> check_no_copy_left(Reactor& reactor, std::string image);

class CopyRun {
 public:
  CopyRun(const Context& context, QmpClient& client, CopyOptions options);

  struct Report {
    std::uint64_t bytes = 0;               // of the file, as stat has it
    bool cloned = false;
    bool merged_before = false;            // what a run before it had left
  };
  Task<Report> run();

 private:
  struct Overlay {
    std::string path;
    std::string name;                      // of its node, and of the job that merges it
  };
  Overlay overlay_of(std::string_view suffix) const;

  Task<> check_daemon();
  Task<> find_disk();
  Task<> check_node(const Json& node, const Json& nodes);
  Task<> see_to_what_is_left();
  Task<> see_to(Overlay left);
  Task<> copy_by_overlay(std::string partial);
  Task<> copy_beside_guests(std::string partial, Overlay overlay);
  Task<File> make_locked(std::string path);
  Task<> make_overlay(std::string path);
  Error under_way() const;
  Task<> snapshot(Overlay overlay);
  Task<> copy(std::string partial);
  Task<> copy_data(std::string partial);
  Task<bool> is_in_daemon(std::string node);
  Task<> merge(Overlay overlay);
  Task<Json> job(std::string id);
  Task<> start_merging(std::string name);
  Task<> begin_commit(std::string name);
  Task<> wait_for_other_job(bool tell);
  Task<bool> is_below_job(std::string name);
  Task<Json> wait_for(std::string id, std::string_view status);
  Task<> command_for_job(std::string_view command, std::string id);

  const Context& context_;
  QmpClient& client_;
  const CopyOptions options_;
  std::string node_;                       // the image's, below filters
  std::string image_, format_;
  Report report_;
};

}  // namespace tidemark::cli
