#include "image/extents.hpp"

#include <algorithm>

namespace tidemark::image {
namespace {

constexpr std::uint64_t look_max = 4 * GiB;      // so that progress is seen, and an interruption heard

}  // namespace

Task<Piece> Extents::next() {
  const auto turn = co_await turn_.lock();
  if (left_.empty()) co_return Piece{};
  const Piece found = co_await look();
  const Piece piece = align(found);
  left_ = {piece.range.end(), left_.length - piece.range.length};
  co_return piece;
}

Task<Piece> Extents::look() {
  const std::uint64_t size = disk_.size();
  if (left_.offset >= size) co_return Piece{left_, false, true};
  const Range there = Range{left_.offset, std::min(left_.length, look_max)}.intersect({0, size});
  const BlockStatus status = co_await block_status_above(disk_.node(), options_.base, there);
  Piece piece{status.range, status.data && !status.zero, status.zero};
  if ((options_.base || options_.only_allocated) && !status.allocated) piece.data = piece.zero = false;
  co_return piece;
}

// What ends within a unit takes the whole unit along, as data.
Piece Extents::align(Piece piece) const noexcept {
  const std::uint64_t end = piece.range.end();
  const std::uint64_t whole = align_down(end, options_.align);
  if (whole > piece.range.offset && whole != end && end != left_.end()) {
    piece.range.length = whole - piece.range.offset;
  } else if (whole <= piece.range.offset && whole != end) {
    piece.range.length = std::min(align_up(end, options_.align), left_.end()) - piece.range.offset;
    if (piece.range.end() != end) piece.data = true, piece.zero = false;
  }
  if (piece.data) {
    const std::uint64_t stop = align_down(piece.range.offset + options_.data_max, options_.align);
    piece.range.length = std::min(piece.range.end(), stop) - piece.range.offset;
  }
  return piece;
}

}  // namespace tidemark::image
