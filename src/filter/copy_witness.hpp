// CopyWitness: is told what a backup's target is given, as it was read from the disk or the stage, before the
// target has it.
//
// Whole granules, the last one of a disk up to its end; calls run side by side, never two for one granule.  What is
// copied again because the target refused it is told again.  An error ends the copy of that piece.
#pragma once

#include "base/units.hpp"
#include "io/buffers.hpp"
#include "task/task.hpp"

namespace tidemark {

class CopyWitness {
 public:
  virtual ~CopyWitness() = default;
  virtual Task<> data(std::uint64_t offset, Buffers data) = 0;
  virtual Task<> zeroes(Range range) = 0;
  // All has been copied; the target has it.
  virtual Task<> finish() = 0;
  // At the end, whether or not it was finished; what is not wanted is not kept.
  virtual Task<> close(bool wanted) = 0;
};

}  // namespace tidemark
