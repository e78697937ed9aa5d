#include "control/bitmaps/suspicion.hpp"

#include <fmt/format.h>

#include "backup/digest.hpp"
#include "control/bitmaps/bitmap_actions.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "io/aligned.hpp"

namespace tidemark {
namespace {

struct Granule {
  Range range;
  Digest digest;
};

constexpr std::uint32_t granularity_max = 64 * MiB;

Result<std::vector<Granule>> granules_of(const schema::BlockDirtyBitmapClearSuspected& arguments, std::uint64_t size) {
  if (arguments.granularity == 0 || arguments.granularity > granularity_max)
    return Error(Errc::invalid_argument, fmt::format("granularity must be between 1 and {}", granularity_max));
  std::vector<Granule> granules;
  for (const schema::GranuleDigest& given : arguments.granules) {
    Granule granule;
    if (given.offset % arguments.granularity != 0 || given.offset >= size)
      return Error(Errc::invalid_argument, fmt::format("there is no granule at {}", given.offset));
    if (!Digest::from_hex(given.digest, granule.digest))
      return Error(Errc::invalid_argument, fmt::format("'{}' is no digest", given.digest));
    granule.range = {given.offset, std::min<std::uint64_t>(arguments.granularity, size - given.offset)};
    granules.push_back(granule);
  }
  return granules;
}

// A mirror or commit that ends takes the users of a node along to another, and bitmaps that follow the disk.
Result<> check_stayed(const FoundBitmap& found, const Edge& edge) {
  if (&edge.node() == found.node && found.node->bitmaps().find(found.bitmap->name()) == found.bitmap) return {};
  return Error(Errc::busy, fmt::format("the disk of node '{}' has moved to another node while bitmap '{}' was compared with it: try again",
                                       found.node->name(), found.bitmap->name()));
}

bool is_suspected(const NodeBitmap& bitmap, Range range) {
  return bitmap.suspected() && bitmap.suspected()->next_dirty_area(range.offset, range.end()).has_value();
}

}  // namespace

Task<schema::BlockDirtyBitmapSuspicion> clear_suspected(Graph& graph,
                                                        const schema::BlockDirtyBitmapClearSuspected& arguments) {
  const FoundBitmap found = co_await unwrap(find_bitmap(graph, arguments.node, arguments.name));
  co_await unwrap(check_bitmap(*found.bitmap, BitmapUse::modify));
  const auto granules = co_await unwrap(granules_of(arguments, found.bitmap->bits().size()));
  const Permissions reads{Permissions::consistent_read, Permissions::all};
  const auto edge = co_await unwrap(Edge::attach(*found.node, Role::root, reads, "block-dirty-bitmap-clear-suspected"));
  NodeBitmap& bitmap = *found.bitmap;
  const auto kept = bitmap.shared_from_this();           // whatever becomes of it meanwhile
  const std::uint64_t before = bitmap.dirty_bytes();
  for (const Granule& granule : granules) {
    if (!is_suspected(bitmap, granule.range) || granule.range.end() > edge->size()) continue;
    AlignedBuffer content(granule.range.length);
    co_await edge->read(granule.range.offset, content.bytes());
    co_await unwrap(check_stayed(found, *edge));
    if (Digest::of(content.bytes()) == granule.digest) bitmap.acquit(granule.range);
  }
  bitmap.release_kept();
  schema::BlockDirtyBitmapSuspicion answer;
  const std::uint64_t after = bitmap.dirty_bytes();
  answer.cleared = before > after ? before - after : 0;
  answer.suspected = bitmap.suspected_bytes();
  co_await save_tracking(*found.node);
  co_return answer;
}

}  // namespace tidemark
