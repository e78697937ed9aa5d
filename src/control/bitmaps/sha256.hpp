// SHA-256, for x-debug-block-dirty-bitmap-sha256.
#pragma once

#include <string>

#include "base/error.hpp"
#include "bitmap/dirty_bitmap.hpp"

namespace tidemark {

// Over the bitmap's bits, one a granule, in 64-bit little-endian words: the digest that QEMU gives for
// a bitmap of the same content.  In hexadecimal digits.  Nothing else runs meanwhile, so one of more than
// hashed_max bytes is refused.
constexpr std::uint64_t hashed_max = 256 * MiB;
Result<std::string> sha256_of_bitmap(const DirtyBitmap& bitmap);

}  // namespace tidemark
