// What a disk at a point must read as, granule by granule: for each the word of the newest layer of
// the point's chain that holds it, or zeroes where none does.
#pragma once

#include <vector>

#include "backup/directory.hpp"
#include "backup/sums.hpp"

namespace tidemark {

struct Expectation {
  Range range;                         // bytes of the disk; whole granules but for the disk's end
  bool zero = false;
  std::vector<Digest> digests;         // of each granule, unless zero
};

// A file that a manifest promises and that is not there is damage of the backup.
Error damage_if_missing(const Error& error);
// Of what is in a backup: no reason outside it, which may be another one next time.
bool is_damage(const Error& error) noexcept;

class Expectations {
 public:
  // Opens the sums files of `disk` in the point's chain, newest first.
  static Task<Expectations> open(Reactor& reactor, const BackupDirectory& directory,
                                 std::vector<const PointManifest*> chain, std::string disk);
  std::uint32_t granularity() const noexcept { return granularity_; }
  std::uint64_t disk_size() const noexcept { return disk_size_; }

  // The next stretch of one kind; data at most `data_max` bytes of it (a multiple of the granularity).  Empty at the end.
  Task<Expectation> next(std::uint64_t data_max);
  Task<> close();

 private:
  Task<> open_layers(Reactor& reactor, const BackupDirectory& directory, std::vector<const PointManifest*> chain,
                     std::string disk);
  std::vector<SumsReader> layers_;     // newest first
  std::uint64_t at_ = 0, granules_ = 0, disk_size_ = 0;
  std::uint32_t granularity_ = 0;
};

}  // namespace tidemark
