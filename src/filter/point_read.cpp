// Reading a point: kept granules from where they are kept, the others from the disk under a hold.
#include <algorithm>

#include "block/status.hpp"
#include "filter/point.hpp"

namespace tidemark {

Result<Point::Piece> Point::first_piece(Range wanted) const {
  const auto denied = [&](std::string_view why) {
    return Error(Errc::permission,
                 "read of a point in time: " + std::to_string(wanted.length) + " bytes at " +
                     std::to_string(wanted.offset) + ": " + std::string(why),
                 EACCES);
  };
  if (broken_) return denied("the point is lost: " + broken_->error.message());
  const bool all_inside = inside_.next_clean(wanted.offset).value_or(size()) >= wanted.end();
  if (!all_inside) return denied("they are not part of it");
  const bool kept = kept_.test(wanted.offset);
  const auto other = kept ? kept_.next_clean(wanted.offset) : kept_.next_dirty(wanted.offset);
  const std::uint64_t end = std::min(other.value_or(size()), wanted.end());
  return Piece{{wanted.offset, end - wanted.offset}, kept};
}

Task<> Point::read(std::uint64_t offset, Buffers into) {
  while (!into.empty()) {
    const Range wanted{offset, into.size()};
    const Piece piece = co_await unwrap(first_piece(wanted));
    const Buffers part = into.first(piece.range.length);
    if (piece.kept) {
      co_await sink_.read(offset, part);
    } else {
      const auto hold = holds_.hold(piece.range);
      co_await source_.read(offset, part);
      if (broken_) co_await unwrap(first_piece(wanted));  // a writer may have overtaken this
    }
    offset += piece.range.length;
    into = into.from(piece.range.length);
  }
}

Task<Extent> Point::map(Range wanted) {
  const Piece piece = co_await unwrap(first_piece(wanted));
  if (piece.kept) co_return co_await sink_.map(piece.range);
  const auto hold = holds_.hold(piece.range);
  const BlockStatus status = co_await block_status_above(source_.node(), nullptr, piece.range);
  co_return Extent{status.range, status.zero ? Mapping::zero : Mapping::data, std::nullopt};
}

Task<> Point::release(Range range) {
  Range inner = range.narrowed(granule());
  if (range.end() == size() && range.offset <= align_down(size(), granule()))
    inner = {align_up(range.offset, granule()), size() - align_up(range.offset, granule())};
  if (inner.empty()) co_return;
  while (holds_.any(inner)) (void)co_await holds_.wait();
  todo_.clear(inner);
  inside_.clear(inner);
  // What was kept before is forgotten, area by area: the bitmap changes under this loop.
  while (auto area = kept_.next_dirty_area(inner.offset, inner.end())) {
    kept_.clear(*area);
    co_await sink_.forget(*area);
  }
}

}  // namespace tidemark
