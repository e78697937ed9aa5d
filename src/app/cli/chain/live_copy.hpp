// LiveCopy: a daemon's disk is mirrored to a target, and its guest goes on.
//
//   target   a new file, made here; with `reuse` an image or a device that is there; or a server's export
//   mirror   until the target is equal, and then what `then` says
//   after    the node that is not the disk's any more goes: the target's, or the one that the disk stood on
//
// Invariant: a new file that the disk does not go over to appears under its name when it is whole and durable.  What fails or is
// interrupted leaves the disk where it was, and nothing of the target that was made here; where the daemon may still use that,
// it stays and the error says so.
#pragma once

#include "app/cli/chain/commands.hpp"
#include "app/cli/image/names.hpp"
#include "storage/file.hpp"

namespace tidemark::cli {

class LiveCopy {
 public:
  LiveCopy(const Context& context, QmpClient& client, const ChainCopyOptions& options, Json layers);

  struct Report {
    std::string node;                      // of the target, while the daemon has it
    std::string job;                       // that stays
    std::string left;                      // the node that the disk stood on, when it is still there
    std::vector<std::string> bitmaps;      // that stayed with it
    std::uint64_t size = 0;
  };
  Task<Report> run();

 private:
  Task<> find_source();
  Task<> check_target();
  Error target_exists() const;
  Task<> check_reused(std::string path);
  Task<> to_new_file(std::string path);
  Task<> remove_what_is_left(std::string path);
  Task<> take_name(std::string path);
  Task<> make(std::string path);
  Task<> mirror_to(ImageName target);
  Task<Json> describe_target(ImageName target);
  Task<> mirror();
  Task<> check_gone_over();
  Task<> see_to_nodes();
  bool goes_over() const noexcept { return options_.pivot || options_.stay; }

  const Context& context_;
  QmpClient& client_;
  const ChainCopyOptions& options_;
  const Json layers_;
  std::string source_, format_;
  bool direct_ = false, no_flush_ = false;
  bool made_ = false;                      // the target, here
  CreatedFile taken_;                      // the same, when the disk goes over to it
  bool in_daemon_ = false;                 // its node
  Report report_;
};

}  // namespace tidemark::cli
