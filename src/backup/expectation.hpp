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

// Of what is in a backup, or is promised and not there: no reason outside it, which may be another one next time.
bool is_damage(const Error& error) noexcept;
// Of reading a backup: Errc::corrupt if it is damage, whatever that is called where it was found.
Error as_damage(const Error& error);

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
