// SumsRecorder: writes the sums file of a backup from what was read of the disk, so that what the target makes of it
// is found by who compares (docs/formats/backup-directory.md).
//
// Pieces come in any order.  Which granules are data or zeroes is in two bitmaps; checksums wait in memory, 256 of
// adjacent granules together, and beyond `leaves_max` of those in a scratch file without a name, at 16 bytes for each
// granule of the disk.  finish() writes the file in order.
#pragma once

#include <array>
#include <bitset>
#include <map>

#include "backup/sums.hpp"
#include "bitmap/dirty_bitmap.hpp"
#include "filter/copy_witness.hpp"
#include "task/sync.hpp"

namespace tidemark {

// One thread.
class SumsRecorder final : public CopyWitness {
 public:
  static constexpr std::uint32_t granularity = 64 * KiB;
  static constexpr std::size_t leaves_max = 1024;

  struct Options {
    std::string path;                    // absent, or an empty file
    std::string scratch_directory;
    std::size_t leaves = leaves_max;
  };
  // What would be refused at the end.
  static Task<> check(Reactor& reactor, std::string path);

  SumsRecorder(Reactor& reactor, std::uint64_t disk_size, Options options);
  ~SumsRecorder() override { TM_ASSERT(!scratch_.is_open()); }

  Task<> data(std::uint64_t offset, Buffers data) override;
  Task<> zeroes(Range range) override;
  Task<> finish() override;
  Task<> close(bool wanted) override;

 private:
  static constexpr std::uint64_t leaf_granules = 256;
  struct Leaf {
    std::array<Digest, leaf_granules> digests;
    std::bitset<leaf_granules> known;
  };
  using Leaves = std::map<std::uint64_t, std::unique_ptr<Leaf>>;

  Task<> spill();
  Task<> spill_all(Leaves& leaves);
  void put_back(Leaves taken);
  Task<> spill_leaf(std::uint64_t number, const Leaf& leaf);
  Task<> write_all(SumsWriter& sums);
  Task<> write_data(SumsWriter& sums, Range range);

  Reactor& reactor_;
  const Options options_;
  DirtyBitmap data_, zero_;
  Leaves leaves_;
  File scratch_;
  Mutex spilling_;
  bool written_ = false, was_there_ = false;
};

}  // namespace tidemark
