// The store's checksum: XXH3, 64 bits, seeded by the store's number, so that blocks of another store
// that the file system left in our file are never taken for ours.
#pragma once

#include "base/bytes.hpp"

namespace tidemark::tracking {

std::uint64_t checksum(Bytes bytes, std::uint64_t store_id) noexcept;

}  // namespace tidemark::tracking
