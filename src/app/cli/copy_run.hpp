// CopyRun: a file of a disk in use, by way of a temporary overlay.
//
//   merge     what a run before it that was killed has left in the daemon
//   snapshot  guests write to an overlay from now on, and the disk's own file is at rest
//   copy      that file: cloned where the file system can, else its data
//   merge     the overlay into the disk again (block-commit of the layer that guests write to), and remove it
//
// Overlay, node and job are named after the disk: those of that name that are there at the start belong to nobody.
//
// Invariant: after run() has returned, however, the disk stands on its own file again and nothing of the overlay is left; or
// the error says that it could not be merged, and the next run does it.  The file appears when all of that went well.
#pragma once

#include <string>

#include "app/cli/commands.hpp"
#include "app/cli/progress.hpp"

namespace tidemark::cli {

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
  Task<> find_disk();
  Task<> find_left_behind();
  Task<> snapshot();
  Task<> copy_beside_guests(std::string partial);
  Task<> copy(std::string partial);
  Task<> copy_data(std::string partial);
  Task<> merge();
  Task<Json> job();
  Task<> start_merging();
  Task<Json> wait_for(std::string_view status, std::string_view instead);
  Task<> remove_overlay();
  std::string what_to_do() const;
  std::string overlay() const { return image_ + ".tidemark-copy"; }

  const Context& context_;
  QmpClient& client_;
  const CopyOptions options_;
  const std::string own_;                  // of the overlay's node, and the job
  std::string image_, format_;
  Report report_;
};

}  // namespace tidemark::cli
