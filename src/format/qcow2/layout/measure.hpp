// How large an image file will be.
#pragma once

#include <cstdint>

namespace tidemark::qcow2 {

struct Measured {
  std::uint64_t required = 0, fully_allocated = 0;       // bytes
};

// Of a disk of `size` bytes of which `data` bytes, in whole clusters, are allocated; `l2_entry` bytes is 8, or 16 with
// extended L2 entries.
Measured measure(std::uint64_t size, std::uint64_t data, std::uint64_t cluster_size, std::uint32_t refcount_bits,
                 std::uint64_t l2_entry = 8);

}  // namespace tidemark::qcow2
