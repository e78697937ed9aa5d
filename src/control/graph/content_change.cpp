#include "control/graph/content_change.hpp"

#include <algorithm>

#include "block/graph.hpp"

namespace tidemark {
namespace {

// A disk in more pieces than that is marked whole.
constexpr std::size_t pieces_max = 4096;

struct Changed {
  BlockNode* node;
  std::vector<Range> ranges;
};

bool records(BlockNode& node) {
  const auto recording = [](const auto& bitmap) { return bitmap->records(); };
  const NodeBitmaps& bitmaps = node.bitmaps();
  return std::ranges::any_of(bitmaps.all(), recording) || std::ranges::any_of(bitmaps.retired(), recording);
}

std::vector<Range> everything(const BlockNode& node) {
  if (node.size() == 0) return {};
  return {Range{0, node.size()}};
}

// A write meanwhile takes from it, and what is discarded marks by itself.
Task<std::vector<Range>> not_allocated(BlockNode& node) {
  std::vector<Range> found;
  const std::uint64_t size = std::min(node.size(), node.driver().size());
  for (std::uint64_t at = 0; at < size;) {
    const Range rest{at, size - at};
    const Extent extent = co_await node.driver().map(rest);
    const Range piece = extent.range;
    at = piece.end();
    if (extent.mapping != Mapping::below) continue;
    if (!found.empty() && found.back().end() == piece.offset) found.back().length += piece.length;
    else found.push_back(piece);
    if (found.size() > pieces_max) co_return everything(node);
  }
  co_return std::move(found);
}

void collect_above(const BlockNode& node, std::vector<Changed>& found) {
  for (const Edge* user : node.parents()) {
    BlockNode* above = user->parent();
    if (!above || user->role() == Role::target) continue;
    const bool known = std::ranges::any_of(found, [above](const Changed& changed) { return changed.node == above; });
    if (known) continue;
    (void)above->graph().pin(above->name());
    found.push_back({above, everything(*above)});
    collect_above(*above, found);
  }
}

// To the end of what there is: it may have become smaller meanwhile.
std::vector<Range> there(const Changed& changed) {
  std::vector<Range> ranges;
  const Range disk{0, changed.node->size()};
  for (const Range range : changed.ranges)
    if (const Range part = range.intersect(disk); !part.empty()) ranges.push_back(part);
  return ranges;
}

// Bits may go while others wait for admission: what counts is a turn in which nothing had to wait.
Task<> mark(std::vector<Changed> changed) {
  std::erase_if(changed, [](const Changed& one) { return !records(*one.node); });
  for (bool all = false; !all;) {
    all = true;
    for (const Changed& one : changed)
      for (const Range range : there(one)) one.node->bitmaps().mark(range);
    for (const Changed& one : changed) {
      for (const Range range : there(one)) {
        if (!one.node->tracking() || one.node->tracking()->admitted(range)) continue;
        all = false;
        co_await one.node->tracking()->admit(range);
      }
    }
  }
}

}  // namespace

Task<> mark_what_is_below(BlockNode& node) {
  std::vector<Changed> changed;
  changed.push_back({&node, everything(node)});
  if (records(node)) {
    auto ranges = co_await not_allocated(node).result();
    if (ranges) changed.front().ranges = *std::move(ranges);
  }
  collect_above(node, changed);
  co_await mark(std::move(changed));
}

Task<> mark_above(BlockNode& node) {
  std::vector<Changed> changed;
  collect_above(node, changed);
  co_await mark(std::move(changed));
}

}  // namespace tidemark
