#include "filter/point.hpp"

#include <algorithm>

#include "block/status.hpp"
#include "io/aligned.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t chunk_max = 1 * MiB;    // of data moved at once
constexpr std::uint64_t cluster_max = 2 * MiB;  // of any format
constexpr std::uint64_t parallel_copies = 8;    // of one writer
constexpr std::uint64_t look_max = 1 * GiB;     // for what is not allocated

}  // namespace

// Granules taken out of `todo`, with a hold on them.  What is neither kept nor dropped by its end
// goes back.
class Point::Claim {
 public:
  Claim(Point& point, Range range) : point_(point), hold_(point.holds_.hold(range)) {
    point_.todo_.clear(range);
    point_.claimed_bytes_ += range.length;
  }
  Claim(const Claim&) = delete;
  ~Claim() { shrink(0); }

  Range range() const noexcept { return hold_.range(); }

  // Gives back all but the first `length` bytes, whole granules.
  void shrink(std::uint64_t length) noexcept {
    const Range all = range();
    if (length >= all.length) return;
    const Range rest{all.offset + length, all.length - length};
    point_.claimed_bytes_ -= rest.length;
    if (!settled_) point_.todo_.set(rest);
    hold_.shrink(length);
  }
  void keep() noexcept {
    point_.kept_.set(range());
    point_.copied_bytes_ += range().length;
    settled_ = true;
  }
  void drop() noexcept {
    point_.inside_.clear(range());
    settled_ = true;
  }

 private:
  Point& point_;
  Holds::Hold hold_;
  bool settled_ = false;
};

Point::Point(Executor& executor, Edge& source, OldData& sink, std::uint64_t granule)
    : executor_(executor),
      source_(source),
      sink_(sink),
      todo_(source.size(), granule),
      kept_(source.size(), granule),
      inside_(source.size(), granule),
      holds_(executor) {}

void Point::protect_all() noexcept {
  todo_.set_all();
  inside_.set_all();
}

void Point::protect(const DirtyBitmap& selection) noexcept {
  todo_.merge(selection);
  inside_.merge(selection);
}

// Of a disk that has grown meanwhile, what the point knows.
Range Point::whole(Range range) const noexcept {
  return range.widened(granule()).intersect({0, size()});
}

std::uint64_t Point::buffer_size() const noexcept {
  return std::max(chunk_max, std::min(granule(), cluster_max));
}

DirtyBitmap Point::remaining() const {
  DirtyBitmap all = todo_.clone();
  for (Range held : holds_.all()) all.set(held);
  return all;
}

bool Point::needs_preserving(Range range) const noexcept {
  const Range touched = whole(range);
  return todo_.next_dirty_area(touched.offset, touched.end()) || holds_.any(touched);
}

Task<Point::Outcome> Point::preserve(Range range) {
  const Range touched = whole(range);
  for (;;) {
    if (todo_.next_dirty_area(touched.offset, touched.end())) {
      Outcome failed = co_await preserve_much(touched);
      if (failed) co_return failed;
    } else if (holds_.any(touched)) {
      (void)co_await holds_.wait();
    } else {
      co_return std::nullopt;
    }
  }
}

Task<Point::Outcome> Point::preserve_much(Range range) {
  Outcome first_failure;
  const auto work = [&]() -> Task<> {
    AlignedBuffer buffer(std::min(buffer_size(), align_up(range.length, granule())));
    Stride stride;
    while (!first_failure && todo_.next_dirty_area(range.offset, range.end())) {
      Outcome failed = co_await copy_some(range, stride, buffer.bytes());
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

Task<Point::Outcome> Point::copy_some(Range range, Stride& stride, MutableBytes buffer) {
  stride.window =
      std::min(std::max<std::uint64_t>(stride.window, buffer.size()), stride.window_max);
  stride.done = 0;
  auto area = todo_.next_dirty_area(range.offset, range.end(), align_up(stride.window, granule()));
  if (!area) co_return std::nullopt;
  Claim claim(*this, *area);
  co_return co_await copy_claim(claim, stride, buffer);
}

Task<Point::Outcome> Point::copy_claim(Claim& claim, Stride& stride, MutableBytes buffer) {
  BlockNode& layer = skip_filters(source_.node());
  BlockNode* const base = only_allocated_ ? layer.backing() : nullptr;
  auto status = co_await block_status_above(layer, base, claim.range()).result();
  if (!status) co_return Failure{status.error(), true};
  const bool unallocated = only_allocated_ && !status->allocated;
  const std::uint64_t alike = whole_granules(claim.range(), status->range.length);
  bool reading = false;
  Result<> copied;
  if ((unallocated || status->zero) && alike != 0) {
    claim.shrink(alike);
    stride.window *= 2;
    if (!unallocated) copied = co_await sink_.keep_zeroes(claim.range()).result();
  } else {
    stride.window = 0;
    claim.shrink(align_up(std::min<std::uint64_t>(status->range.length, buffer.size()), granule()));
    copied = co_await copy_data(claim.range(), buffer, reading).result();
  }
  if (!copied) co_return Failure{copied.error(), reading};
  stride.done = claim.range().length;
  if (unallocated && alike != 0)
    claim.drop();
  else
    claim.keep();
  co_return std::nullopt;
}

Task<> Point::copy_data(Range range, MutableBytes buffer, bool& reading) {
  while (!range.empty()) {
    const std::size_t length = std::min<std::uint64_t>(range.length, buffer.size());
    const Buffers data = buffer.first(length);
    reading = true;
    co_await source_.read(range.offset, data);
    reading = false;
    co_await sink_.keep(range.offset, data);
    range = {range.offset + length, range.length - length};
  }
}

Task<std::uint64_t> Point::drop_unallocated(std::uint64_t from) {
  auto area = todo_.next_dirty_area(from, size(), align_up(look_max, granule()));
  if (!area) co_return size();
  // The claim keeps writers away while the layer is looked at: what they write would count as
  // there.
  Claim claim(*this, *area);
  BlockNode& layer = skip_filters(source_.node());
  const BlockStatus status = co_await block_status_above(layer, layer.backing(), claim.range());
  const std::uint64_t alike = whole_granules(*area, status.range.length);
  if (status.allocated || alike == 0)
    co_return std::min(align_up(status.range.end(), granule()), size());
  claim.shrink(alike);
  claim.drop();
  co_return area->offset + alike;
}

// How much of `claimed` is granules of which `length` bytes from its start on tell all.
std::uint64_t Point::whole_granules(Range claimed, std::uint64_t length) const noexcept {
  return length == claimed.length ? length : align_down(length, granule());
}

}  // namespace tidemark
