// Whether a qcow2 image has corruption, as far as `qemu-img check` looks: every cluster that is used is counted as
// often as it is used, or more often, which is a leak; and nothing points to where nothing can be.
//
// Of images without snapshots, with 16 bits a refcount.
#pragma once

#include "base/error.hpp"
#include "io/sim/content.hpp"

namespace tidemark::sim {

Result<> check_qcow2(const SparseContent& file);

// The bitmaps that the image holds and that count.
struct StoredBitmap {
  std::string name{};
  bool in_use = false, enabled = false;
  std::uint64_t granularity = 0;
  std::vector<bool> granules{};                    // and what the last cluster has behind the disk's end
};
Result<std::vector<StoredBitmap>> bitmaps_in_qcow2(const SparseContent& file);
std::uint64_t autoclear_of_qcow2(const SparseContent& file);

}  // namespace tidemark::sim
