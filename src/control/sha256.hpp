// SHA-256, for x-debug-block-dirty-bitmap-sha256.
#pragma once

#include <string>

#include "bitmap/dirty_bitmap.hpp"

namespace tidemark {

// Over the bitmap's bits, one a granule, in 64-bit little-endian words: the digest that QEMU gives for
// a bitmap of the same content.  In hexadecimal digits.
std::string sha256_of_bitmap(const DirtyBitmap& bitmap);

}  // namespace tidemark
