#include "image/rebase.hpp"

#include <algorithm>

#include "block/node.hpp"
#include "image/extents.hpp"
#include "io/aligned.hpp"

namespace tidemark::image {
namespace {

constexpr std::uint64_t piece_max = 1 * MiB;

class Differences {
 public:
  Differences(Edge& overlay, Edge* before, Edge* after, Course& course)
      : overlay_(overlay), before_(before), after_(after), course_(course), running_(overlay.node().reactor(), course),
        unit_(std::max<std::uint64_t>(sector_size, std::bit_ceil(std::max(1u, overlay.node().limits().opt_transfer)))),
        left_{0, overlay.size()}, turn_(overlay.node().reactor()) {}

  Task<std::uint64_t> run() {
    auto worker = [this](CancelToken stop) { return work(stop); };
    co_await side_by_side(overlay_.node().reactor(), course_.workers, worker);
    co_return written_;
  }

 private:
  struct Part {
    Range range;
    bool differs = false;              // perhaps
  };

  Task<Part> next() {
    const auto turn = co_await turn_.lock();
    if (left_.empty()) co_return Part{};
    const BlockStatus own = co_await block_status_above(overlay_.node(), nullptr, left_);
    Part part{own.range, false};
    if (!own.allocated) {
      const BlockStatus a = co_await status_of(before_, part.range);
      const BlockStatus b = co_await status_of(after_, a.range);
      part = {b.range, !(a.zero && b.zero)};
      // Whole units, so that no request has to be completed from below.
      const std::uint64_t most = part.differs ? std::max(piece_max, unit_) : part.range.length;
      const std::uint64_t end = std::min(own.range.end(), align_up(part.range.offset + std::min(most, part.range.length), unit_));
      part.differs = part.differs || end > part.range.end();
      part.range.length = end - part.range.offset;
      if (part.differs) part.range.length = std::min(part.range.length, std::max(piece_max, unit_));
    }
    left_ = {part.range.end(), left_.length - part.range.length};
    co_return part;
  }

  static Task<BlockStatus> status_of(Edge* disk, Range range) {
    const std::uint64_t size = disk ? disk->size() : 0;
    if (range.offset >= size) co_return BlockStatus{range, false, true, false, 0, {}, nullptr};
    const Range there = range.intersect({0, size});
    co_return co_await block_status_above(disk->node(), nullptr, there);
  }

  Task<> work(CancelToken stop) {
    AlignedBuffer a(std::max(piece_max, unit_)), b(std::max(piece_max, unit_));
    for (;;) {
      co_await unwrap(running_.going_on(stop));
      const Part part = co_await next();
      if (part.range.empty()) co_return;
      if (part.differs) co_await compare(part.range, a, b);
      running_.advance(part.range.length);
    }
  }

  Task<> compare(Range range, AlignedBuffer& a, AlignedBuffer& b) {
    co_await fill(before_, range, a);
    co_await fill(after_, range, b);
    auto unit_end = [&](std::uint64_t at) { return std::min(range.length, align_down(range.offset + at, unit_) + unit_ - range.offset); };
    auto same = [&](std::uint64_t at) { return std::memcmp(a.data() + at, b.data() + at, unit_end(at) - at) == 0; };
    for (std::uint64_t at = 0; at < range.length;) {
      std::uint64_t end = unit_end(at);
      const bool skip = same(at);
      while (end < range.length && same(end) == skip) end = unit_end(end);
      const Range part{range.offset + at, end - at};
      if (!skip) co_await keep(part, a.bytes().subspan(at, part.length));
      at = end;
    }
  }

  Task<> keep(Range range, MutableBytes content) {
    written_ += range.length;
    // Not by unmapping, which says nothing where the header names nothing below yet.
    if (is_zero(content)) co_await overlay_.write_zeroes(range, WriteFlags::none);
    else co_await overlay_.write(range.offset, Buffers(content));
  }

  static Task<> fill(Edge* disk, Range range, AlignedBuffer& buffer) {
    const std::uint64_t size = disk ? disk->size() : 0;
    const Range there = range.intersect({0, size});
    const Buffers all(buffer.bytes().first(range.length));
    if (!there.empty()) co_await disk->read(range.offset, all.first(there.length));
    all.from(there.length).fill_zero();
  }

  Edge& overlay_;
  Edge* before_;
  Edge* after_;
  Course& course_;
  Running running_;
  const std::uint64_t unit_;
  Range left_;
  Mutex turn_;
  std::uint64_t written_ = 0;
};

}  // namespace

Task<std::uint64_t> copy_differences(Edge& overlay, Edge* before, Edge* after, Course course) {
  Differences differences(overlay, before, after, course);
  co_return co_await differences.run();
}

}  // namespace tidemark::image
