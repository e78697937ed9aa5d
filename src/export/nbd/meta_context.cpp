#include "export/nbd/meta_context.hpp"

#include <algorithm>

#include "block/status.hpp"

namespace tidemark {
namespace {

// Pieces looked up between two chances for others: to run, and to drain the node.
constexpr unsigned pieces_per_turn = 256;

bool is_wildcard(std::string_view query) {
  return query == nbd::context_base || query == nbd::context_qemu ||
         query == nbd::context_dirty_bitmap;
}

bool matches(const std::string& name, std::string_view query, bool listing) {
  if (listing && is_wildcard(query)) return name.starts_with(query);
  return name == query;
}

// Joins neighbours of equal status.  False when it is full.
bool append(std::vector<nbd::Extent>& extents, std::size_t extents_max, nbd::Extent extent) {
  if (!extents.empty() && extents.back().flags == extent.flags) {
    extents.back().length += extent.length;
    return true;
  }
  if (extents.size() == extents_max) return false;
  extents.push_back(extent);
  return true;
}

// A bitmap of another node may be of another size: what it does not cover is clean.
bool is_dirty(const DirtyBitmap& bits, std::uint64_t offset) {
  return offset < bits.size() && bits.test(offset);
}

std::uint64_t end_of_stretch(const DirtyBitmap& bits, Range wanted, bool dirty) {
  std::optional<std::uint64_t> end;
  if (dirty) end = bits.next_clean(wanted.offset).value_or(bits.size());
  else if (wanted.offset < bits.size()) end = bits.next_dirty(wanted.offset);
  return std::min(end.value_or(wanted.end()), wanted.end());
}

}  // namespace

std::vector<std::uint32_t> match_contexts(const std::vector<MetaContext>& all,
                                          const std::vector<std::string>& queries, bool listing) {
  std::vector<std::uint32_t> found;
  for (std::uint32_t i = 0; i < all.size(); ++i) {
    auto names_it = [&](const std::string& query) { return matches(all[i].name, query, listing); };
    if ((listing && queries.empty()) || std::any_of(queries.begin(), queries.end(), names_it))
      found.push_back(i);
  }
  return found;
}

Task<MetaContext::Piece> MetaContext::piece_at(BlockNode& node, Range wanted) const {
  if (kind == Kind::dirty_bitmap) {
    const bool dirty = is_dirty(bitmap->bits(), wanted.offset);
    const std::uint64_t end = end_of_stretch(bitmap->bits(), wanted, dirty);
    co_return Piece{end - wanted.offset, dirty ? nbd::extent_flag::dirty : 0};
  }
  const BlockStatus status = co_await block_status_above(node, nullptr, wanted);
  if (kind == Kind::depth) co_return Piece{status.range.length, status.depth};
  const std::uint32_t flags = (status.data ? 0 : nbd::extent_flag::hole) |
                              (status.zero ? nbd::extent_flag::zero : 0);
  co_return Piece{status.range.length, flags};
}

// What may be said of two stretches at once.
std::uint32_t MetaContext::combine(std::uint32_t a, std::uint32_t b) const noexcept {
  switch (kind) {
    case Kind::allocation: return a & b;
    case Kind::depth: return std::max(a, b);
    case Kind::dirty_bitmap: return a | b;
  }
  return 0;
}

// Whole units of `align`; where the status changes inside a unit, that unit alone.
Task<MetaContext::Piece> MetaContext::aligned_piece_at(BlockNode& node, Range wanted,
                                                       std::uint32_t align) const {
  Piece piece = co_await piece_at(node, wanted);
  if (piece.length == wanted.length || is_aligned(piece.length, align)) co_return piece;
  if (piece.length > align) co_return Piece{align_down(piece.length, align), piece.flags};
  const std::uint64_t unit = std::min<std::uint64_t>(align, wanted.length);
  while (piece.length < unit) {
    const Range rest{wanted.offset + piece.length, unit - piece.length};
    const Piece next = co_await piece_at(node, rest);
    piece = {piece.length + next.length, combine(piece.flags, next.flags)};
  }
  co_return piece;
}

Task<std::vector<nbd::Extent>> MetaContext::extents(Edge& disk, Query query,
                                                    CancelToken token) const {
  std::vector<nbd::Extent> found;
  Range left = query.wanted;
  while (!left.empty() && !token.requested()) {
    const auto in_flight = co_await disk.enter();
    for (unsigned n = 0; n < pieces_per_turn && !left.empty(); ++n) {
      const Piece piece = co_await aligned_piece_at(disk.node(), left, query.align);
      const nbd::Extent extent{piece.length, piece.flags};
      if (!append(found, query.extents_max, extent)) co_return found;
      left = {left.offset + piece.length, left.length - piece.length};
    }
    if (!left.empty()) co_await disk.node().reactor().yield();
  }
  co_return found;
}

}  // namespace tidemark
