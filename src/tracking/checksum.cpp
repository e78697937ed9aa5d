#include "tracking/checksum.hpp"

#include <xxhash.h>

namespace tidemark::tracking {

std::uint64_t checksum(Bytes bytes, std::uint64_t store_id) noexcept {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), store_id);
}

}  // namespace tidemark::tracking
