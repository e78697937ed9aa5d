#include "filter/granule.hpp"

#include <algorithm>

#include "block/status.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t granule_default = 64 * KiB;

Result<> check_min_cluster_size(std::uint64_t size) {
  if (size == 0) return {};
  if (!is_power_of_two(size))
    return Error(Errc::invalid_argument, "min-cluster-size needs to be a power of 2");
  if (size > DirtyBitmap::granularity_max)
    return Error(Errc::invalid_argument, "min-cluster-size must be at most 2 GiB");
  return {};
}

}  // namespace

Task<Granule> choose_granule(BlockNode& target, std::uint64_t min_cluster_size) {
  co_await unwrap(check_min_cluster_size(min_cluster_size));
  Granule granule;
  auto info = co_await target.driver().info().result();
  const bool has_backing = skip_filters(target).backing() != nullptr;
  if (!info && info.error().code() != Errc::unsupported && !has_backing)
    co_await info.error().with_context(
        "Couldn't determine the cluster size of the target image, which has no backing file");
  if (!info && !has_backing)
    granule.warning =
        "The target block device doesn't provide information about the block size and it doesn't "
        "have a backing file. The default block size of 65536 bytes is used. If the actual block "
        "size of the target exceeds this default, the backup may be unusable";
  if (info) granule.target_cluster = info->cluster_size.value_or(0);
  granule.size = std::max({granule_default, granule.target_cluster, min_cluster_size});
  if (!DirtyBitmap::valid_granularity(granule.size))
    co_await Error(Errc::unsupported, "node '" + target.name() + "': its cluster size of " +
                                          std::to_string(granule.target_cluster) +
                                          " bytes is not supported for a copy-before-write target");
  co_return granule;
}

}  // namespace tidemark
