#include "filter/point.hpp"

#include <algorithm>

#include "filter/point_claim.hpp"
#include "io/aligned.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t chunk_max = 1 * MiB;    // of data moved at once
constexpr std::uint64_t cluster_max = 2 * MiB;  // of any format
constexpr std::uint64_t parallel_copies = 8;    // of one writer

}  // namespace

Point::Point(Executor& executor, Edge& source, OldData& sink, std::uint64_t granule, Stage* stage)
    : executor_(executor),
      source_(source),
      sink_(sink),
      stage_(stage),
      todo_(source.size(), granule),
      claimed_(source.size(), granule),
      kept_(source.size(), granule),
      inside_(source.size(), granule),
      staged_(source.size(), granule),
      zero_(source.size(), granule),
      overwritten_(source.size(), Stage::unit),
      holds_(executor) {
  TM_ASSERT(!stage || granule <= buffer_size(granule));
}

void Point::protect_all() noexcept {
  todo_.set_all();
  inside_.set_all();
}

void Point::protect(const DirtyBitmap& selection) noexcept {
  todo_.merge(selection);
  inside_.merge(selection);
}

void Point::only_changed(BlockNode& below, const DirtyBitmap& dirty) {
  changed_below_ = &below;
  changed_.emplace(size(), granule());
  changed_->merge(dirty);
}

// Of a disk that has grown meanwhile, what the point knows.
Range Point::whole(Range range) const noexcept {
  return range.widened(granule()).intersect({0, size()});
}

std::uint64_t Point::buffer_size(std::uint64_t granule) noexcept {
  return std::max(chunk_max, std::min(granule, cluster_max));
}

DirtyBitmap Point::remaining() const {
  DirtyBitmap all = todo_.clone();
  all.merge(claimed_);
  return all;
}

bool Point::needs_preserving(Range range) const noexcept {
  if (broken_) return false;
  const Range touched = stage_ ? units(range) : whole(range);
  if (stage_) return next_unsafe(touched) || claimed_.next_dirty_area(touched.offset, touched.end()) || holds_.any(touched);
  return todo_.next_dirty_area(touched.offset, touched.end()) || holds_.any(touched);
}

Task<Point::Outcome> Point::preserve(Range range) {
  return stage_ ? preserve_by_staging(range) : preserve_by_copying(range);
}

Task<Point::Outcome> Point::preserve_by_copying(Range range) {
  const Range touched = whole(range);
  while (!broken_) {
    if (todo_.next_dirty_area(touched.offset, touched.end())) {
      Outcome failed = co_await copy_all_of(touched);
      if (failed) co_return failed;
    } else if (holds_.any(touched)) {
      (void)co_await holds_.wait();
    } else {
      break;
    }
  }
  co_return std::nullopt;
}

Task<Point::Outcome> Point::copy_all_of(Range range) {
  Outcome first_failure;
  const auto work = [&]() -> Task<> {
    AlignedBuffer buffer(std::min(buffer_size(), align_up(range.length, granule())));
    Stride stride;
    while (!first_failure && todo_.next_dirty_area(range.offset, range.end())) {
      Outcome failed = co_await copy_some(range, stride, buffer.bytes(), nullptr);
      if (failed && !first_failure) first_failure = std::move(failed);
    }
  };
  const auto side_by_side = [&](TaskGroup& group) -> Task<> {
    const std::uint64_t copies = std::min(div_up(range.length, chunk_max), parallel_copies);
    for (std::uint64_t i = 0; i < copies; ++i) group.spawn(work());
    co_await group.join();
  };
  if (range.length <= chunk_max)
    co_await work();
  else
    co_await with_group(executor_, side_by_side);
  co_return first_failure;
}

void Point::break_with(Failure failure) {
  if (broken_) return;
  broken_ = std::move(failure);
  if (stage_) stage_->end(broken_->error);
  holds_.look_again();
  if (on_break_) on_break_();
}

}  // namespace tidemark
