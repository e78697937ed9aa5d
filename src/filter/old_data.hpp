// OldData: where the content of a point in time goes when the disk is about to lose it.
//
// keep() returns when the content is safe from the guest: the write that asked for it goes on then.
// Today that is the target of the copy itself (filter/target_sink.hpp); a stage in memory that
// ships to the target later stands behind the same calls.
#pragma once

#include "block/types.hpp"
#include "io/buffers.hpp"
#include "task/task.hpp"

namespace tidemark {

// Calls run side by side, never two for one granule.  Ranges are whole granules, the last one of a
// disk up to its end.
class OldData {
 public:
  virtual ~OldData() = default;

  virtual Task<> keep(std::uint64_t offset, Buffers data) = 0;
  virtual Task<> keep_zeroes(Range range) = 0;

  // Of what was kept; any range within it.
  virtual Task<> read(std::uint64_t offset, Buffers into) = 0;
  virtual Task<Extent> map(Range wanted) = 0;
  // Nobody will read this again: its space may be given back.
  virtual Task<> forget(Range range) = 0;
};

}  // namespace tidemark
