// TargetSink: old data written straight to a target node, at the same offsets.
//
// What reads as zeroes is never written as data: granules of zero bytes become write-zeroes, and, unless something else will be
// below the target, nothing at all where the target's own layer reads as zeroes already.  (What the target shows from
// a backing file does not count: in a fleecing setup that is the live disk itself.  Nor does what it
// lacks count as zero when it names a backing file that is not open.)
#pragma once

#include <optional>

#include "block/edge.hpp"
#include "filter/copy_witness.hpp"
#include "filter/old_data.hpp"

namespace tidemark {

struct TargetSinkOptions {
  std::uint64_t granule = 64 * KiB;
  bool compress = false;
  CopyWitness* witness = nullptr;     // outlives the sink
  bool unmap = true;                  // zeroes may be holes
  bool target_is_zero = false;        // all of it, but for what is kept in it; which is kept once only
  bool backing_later = false;         // something else will be below it: zeroes are written, whatever it reads as
};

// An image of version 2 says zeroes as data, or not at all: a hole in it shows what comes to be below.
Task<bool> holes_say_zero(BlockNode& target);

class TargetSink final : public OldData {
 public:
  // The edge outlives this.
  TargetSink(Edge& target, TargetSinkOptions options) : target_(target), options_(options) {}

  Task<> keep(std::uint64_t offset, Buffers data) override;
  Task<> keep_zeroes(Range range) override;
  Task<> read(std::uint64_t offset, Buffers into) override { return target_.read(offset, into); }
  Task<Extent> map(Range wanted) override;
  Task<> forget(Range range) override { return target_.discard(range); }

 private:
  Task<bool> shows_hidden_backing();

  Edge& target_;
  TargetSinkOptions options_;
  std::optional<bool> hidden_backing_;
};

}  // namespace tidemark
