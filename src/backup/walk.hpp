// Walking a point: every granule is read back and held against its checksum; what is right goes to a
// sink.  `verify` is a walk into nothing, `restore` a walk into a new image, so no byte is restored
// that was not verified.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "backup/expectation.hpp"
#include "block/edge.hpp"

namespace tidemark {

class WalkSink {
 public:
  virtual ~WalkSink() = default;
  virtual Task<> data(std::uint64_t offset, Bytes bytes) = 0;   // concurrent calls, disjoint ranges
  virtual Task<> zero(Range range) = 0;
};

struct WalkOptions {
  bool stop_at_first_mismatch = true;              // restore; verify goes on and counts
  std::function<void(std::uint64_t done)> progress;    // bytes of the disk walked so far
  CancelToken interrupted;
};

struct WalkReport {
  std::uint64_t data_bytes = 0, zero_bytes = 0;    // verified
  std::uint64_t mismatches = 0;                    // granules
  std::vector<Range> first_mismatches;             // at most mismatches_kept of them
  std::string read_error;                          // of the first of them that could not even be read; empty: all could
  static constexpr std::size_t mismatches_kept = 16;
};

// `disk` is the top image of the point's chain.  Ends with Errc::corrupt at the first mismatch when told to stop there.  A granule
// that cannot be read for what the image holds is one; what else fails to be read ends the walk with its own error.
Task<WalkReport> walk_point(Edge& disk, Expectations& expected, WalkSink* sink, WalkOptions options);

}  // namespace tidemark
