// Preserving a point by staging: what a writer is about to overwrite is read into the stage.
#include <algorithm>

#include "filter/point.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t look_max = 1 * GiB;  // for zeroes

}  // namespace

Range Point::units(Range range) const noexcept {
  return range.widened(Stage::unit).intersect({0, size()});
}

// The first units that only the disk has.
std::optional<Range> Point::next_unsafe(Range range) const noexcept {
  for (std::uint64_t at = range.offset; at < range.end();) {
    const auto area = todo_.next_dirty_area(at, range.end());
    if (!area) return std::nullopt;
    at = area->end();
    const auto candidate = next_candidate(*area, area->length);
    at = candidate->range.end();
    if (candidate->kind == Kind::plain) return candidate->range;
    if (candidate->kind == Kind::zero) continue;
    if (const auto missing = stage_->next_missing(candidate->range)) return missing;
  }
  return std::nullopt;
}

Task<Point::Outcome> Point::preserve_by_staging(Range range) {
  const Range touched = units(range);
  while (!broken_) {
    if (holds_.any(touched)) {
      (void)co_await holds_.wait();
      continue;
    }
    const auto unsafe = next_unsafe(touched);
    if (!unsafe) break;
    Outcome failed = co_await stage_some(*unsafe);
    if (failed) co_return failed;
  }
  note_overwritten(touched);
  co_return std::nullopt;
}

// Nobody holds it: what is being copied of it is in memory only.
void Point::note_overwritten(Range range) noexcept {
  DirtyAreas copied(claimed_, range);
  while (const auto area = copied.next()) overwritten_.set(*area);
}

// Of units that only the disk has, and that nobody holds.
Task<Point::Outcome> Point::stage_some(Range range) {
  const auto aside = co_await set_aside(range).result();
  if (!aside) co_return Failure{aside.error(), true};
  if (*aside) co_return std::nullopt;
  const Range piece{range.offset, std::min(range.length, stage_->room_max() * Stage::unit)};
  auto room = co_await stage_->room_for(div_up(piece.length, Stage::unit)).result();
  if (!room) co_return Failure{room.error(), false};
  while (holds_.any(piece)) (void)co_await holds_.wait();
  // There may be less need for it after a wait, or none.
  const auto unsafe = next_unsafe(piece);
  if (!unsafe) co_return std::nullopt;
  const Range rest{unsafe->offset, piece.end() - unsafe->offset};
  const auto hold = holds_.hold(rest);
  const Result<> read = co_await stage_data(rest, *room).result();
  if (!read) co_return Failure{read.error(), true};
  co_return std::nullopt;
}

// Deals with whole granules of which there is nothing to read: they are zeroes, or no part of the
// point.  Whether there were any.
Task<bool> Point::set_aside(Range range) {
  Range look = drops_unallocated() ? whole(range) : range.narrowed(granule());
  look = look.intersect({0, size()});
  look.length = std::min(look.length, look_max);
  if (look.empty() || look.offset > range.offset || holds_.any(look)) co_return false;
  const auto hold = holds_.hold(look);
  const BlockStatus status = co_await look_at(look);
  const bool unallocated = drops_unallocated() && !status.allocated;
  const std::uint64_t alike = whole_granules(look, status.range.length);
  if (alike == 0 || (!unallocated && !status.zero)) co_return false;
  // A copier may have claimed some meanwhile.
  bool found = false;
  for (std::uint64_t at = look.offset; at < look.offset + alike;) {
    const auto candidate = next_candidate({at, look.offset + alike - at}, alike);
    if (!candidate) break;
    at = candidate->range.end();
    if (candidate->kind != Kind::plain) continue;
    found = true;
    if (!unallocated) {
      zero_.set(candidate->range);
      continue;
    }
    todo_.clear(candidate->range);
    inside_.clear(candidate->range);
  }
  co_return found;
}

Task<> Point::stage_data(Range range, Stage::Room& room) {
  const std::vector<iovec> memory = room.memory(range.length);
  const Buffers into{std::span<const iovec>(memory)};
  co_await source_.read(range.offset, into);
  std::size_t index = 0;
  for (std::uint64_t at = range.offset; at < range.end(); at += Stage::unit, ++index) {
    // A copier may have claimed it meanwhile: then it has it.
    if (!todo_.test(at) || zero_.test(at) || stage_->has(at)) continue;
    staged_.set({at, 1});
    stage_->add(at, room, index);
  }
}

}  // namespace tidemark
