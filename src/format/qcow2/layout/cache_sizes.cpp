#include "format/qcow2/layout/cache_sizes.hpp"

#include <algorithm>

namespace tidemark::qcow2 {

Result<CacheSizes> cache_sizes(const CacheOptions& o, const Geometry& g) {
  const auto refuse = [](const char* why) { return Error(Errc::invalid_argument, why); };
  CacheSizes sizes;
  if (o.l2) sizes.l2 = *o.l2;
  if (o.refcount) sizes.refcount = *o.refcount;
  if (!o.total) return sizes;
  if (o.l2 && o.refcount) return refuse("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
  if (o.l2 && *o.l2 > *o.total) return refuse("l2-cache-size may not exceed cache-size");
  if (o.refcount && *o.refcount > *o.total) return refuse("refcount-cache-size may not exceed cache-size");
  const std::uint64_t refcount_least = std::min<std::uint64_t>(*o.total / 2, 4 * g.block_slice_size());
  if (o.l2) sizes.refcount = *o.total - *o.l2;
  else sizes.l2 = *o.total - o.refcount.value_or(refcount_least);
  if (!o.l2 && !o.refcount) sizes.refcount = refcount_least;
  return sizes;
}

}  // namespace tidemark::qcow2
