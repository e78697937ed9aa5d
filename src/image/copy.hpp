// Copying a disk's content to another disk: what `image convert` and `image commit` are made of.
//
// Invariant: when it returns without an error, the target's area reads as the source's does, but for what comes from
// `base`, which is left alone.  The end of it is not flushed.
#pragma once

#include "block/edge.hpp"
#include "image/workers.hpp"

namespace tidemark::image {

struct CopyOptions {
  Course course;
  BlockNode* base = nullptr;               // of the source's chain; what comes from there is not copied
  bool only_allocated = false;             // the source ends above its base: what it does not have is not copied
  std::uint64_t target_offset = 0;         // where the area's start goes
  std::uint64_t sparse = 4096;             // so many zeroes, aligned, are not written as data; 0: all are
  bool target_is_zero = false;             // zeroes are there already
  bool compress = false;
};

struct CopyReport {
  std::uint64_t data_bytes = 0, zero_bytes = 0, skipped_bytes = 0;
};

Task<CopyReport> copy_disk(Edge& source, Range area, Edge& target, CopyOptions options);

}  // namespace tidemark::image
