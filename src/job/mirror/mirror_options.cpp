#include "job/mirror/mirror_options.hpp"

#include <algorithm>

#include "block/graph.hpp"
#include "block/status.hpp"
#include "filter/disk_filters.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t granularity_default = 64 * KiB;
constexpr std::uint64_t granularity_least = 4 * KiB;      // that is chosen; 512 can be asked for
constexpr std::uint64_t granularity_most = 64 * MiB;

Error refuse(std::string why) { return Error(Errc::invalid_argument, std::move(why)); }

Result<> check_granularity(std::uint64_t granularity) {
  if (granularity == 0) return {};
  if (granularity < 512 || granularity > granularity_most)
    return refuse("Parameter 'granularity' expects a value in range [512B, 64MB]");
  if (!is_power_of_two(granularity)) return refuse("Parameter 'granularity' expects a power of 2");
  return {};
}

Result<> check_place(const MirrorOptions& options) {
  for (const Edge* user : options.target->parents())
    if (user->role() == Role::backing)
      return Error(Errc::busy, "Node '" + options.target->name() + "' is busy: node is used as backing hd of '" +
                                   user->parent()->name() + "'");
  if (!is_disk(*options.source)) return refuse("Need a root block node");
  if (&skip_filters(*options.source) == &skip_filters(*options.target))
    return refuse("Can't mirror node into itself");
  return {};
}

}  // namespace

std::string_view to_string(CopyMode mode) noexcept {
  return mode == CopyMode::background ? "background" : "write-blocking";
}

Result<BlockNode*> find_replaced(const MirrorOptions& options) {
  if (!options.replaces) return options.source;
  BlockNode* wanted = options.source->graph().find(*options.replaces);
  if (!wanted) return Error(Errc::not_found, "Failed to find node with node-name='" + *options.replaces + "'");
  for (BlockNode* shown = options.source; shown; shown = shown->filtered())
    if (shown == wanted) return wanted;
  return Error(Errc::invalid_argument, "Cannot replace '" + *options.replaces + "' by a node mirrored from '" +
                                           options.source->name() +
                                           "', because it cannot be guaranteed that doing so would not lead to "
                                           "an abrupt change of visible data");
}

Result<NodeBitmap*> check_mirror(MirrorOptions& options) {
  if (auto ok = check_granularity(options.granularity); !ok) return ok.error();
  if (auto ok = check_place(options); !ok) return ok.error();
  const auto replaced = find_replaced(options);
  if (!replaced) return replaced.error();
  if ((*replaced)->size() != options.source->size())
    return refuse("cannot replace image with a mirror image of different size");
  if (options.buf_size < 0) return refuse("Invalid parameter 'buf-size'");
  options.bitmap.sync = options.sync;
  return choose_bitmap(*options.source, options.bitmap);
}

Task<std::uint64_t> choose_mirror_granularity(const MirrorOptions& options) {
  const auto info = co_await options.target->driver().info().result();
  const std::uint64_t cluster = info ? info->cluster_size.value_or(0) : 0;
  if (options.granularity == 0) {
    const std::uint64_t suits = cluster ? std::max(cluster, granularity_least) : granularity_default;
    co_return DirtyBitmap::valid_granularity(suits) ? suits : granularity_default;
  }
  // Half a cluster that is new in the target would have the other half from nowhere.
  co_return DirtyBitmap::valid_granularity(cluster) ? std::max(options.granularity, cluster) : options.granularity;
}

}  // namespace tidemark
