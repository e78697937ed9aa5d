// How much memory the two caches of tables get, of what QEMU's options say.
#pragma once

#include <optional>

#include "base/error.hpp"
#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

struct CacheOptions {
  std::optional<std::uint64_t> total, l2, refcount;      // bytes
};
struct CacheSizes {
  std::uint64_t l2 = 32 * MiB, refcount = 1 * MiB;
};

// Any two say the third; one for both goes to the L2 tables but for a small part.
Result<CacheSizes> cache_sizes(const CacheOptions& options, const Geometry& geometry);

}  // namespace tidemark::qcow2
