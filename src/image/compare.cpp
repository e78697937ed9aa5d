#include "image/compare.hpp"

#include <algorithm>

#include "block/node.hpp"
#include "block/status.hpp"
#include "io/aligned.hpp"
#include "task/sync.hpp"

namespace tidemark::image {
namespace {

constexpr std::uint64_t piece_max = 1 * MiB, look_max = 4 * GiB;

struct Part {
  Range range;
  bool first_zero = false, second_zero = false;
};

class Compare {
 public:
  Compare(Edge& first, Edge& second, CompareOptions& options)
      : first_(first), second_(second), options_(options), running_(first.node().reactor(), options.course),
        left_{0, std::max(first.size(), second.size())}, turn_(first.node().reactor()) {}

  Task<CompareReport> run() {
    report_.sizes_differ = first_.size() != second_.size();
    auto worker = [this](CancelToken stop) { return work(stop); };
    co_await side_by_side(first_.node().reactor(), options_.course.workers, worker);
    co_return report_;
  }

 private:
  // Pieces come in order, so that those under way when a difference is found are the only ones that can have an
  // earlier one.
  bool decided() const noexcept { return !report_.same(options_.strict) && (report_.content_at || report_.allocation_at); }

  Task<Part> next() {
    const auto turn = co_await turn_.lock();
    if (left_.empty() || decided()) co_return Part{};
    Range range{left_.offset, std::min(left_.length, look_max)};
    const BlockStatus a = co_await status_of(first_, range);
    const BlockStatus b = co_await status_of(second_, a.range);
    Part part{b.range, a.zero, b.zero};
    const bool in_both = part.range.offset < std::min(first_.size(), second_.size());
    if (options_.strict && in_both && (a.zero != b.zero || a.allocated != b.allocated)) note(report_.allocation_at, part.range.offset);
    if (!part.first_zero || !part.second_zero) part.range.length = std::min(part.range.length, piece_max);
    left_ = {part.range.end(), left_.length - part.range.length};
    co_return part;
  }

  static Task<BlockStatus> status_of(Edge& disk, Range range) {
    const std::uint64_t size = disk.size();
    if (range.offset >= size) co_return BlockStatus{range, false, true, false, 0, {}, nullptr};
    const Range there = range.intersect({0, size});
    co_return co_await block_status_above(disk.node(), nullptr, there);
  }

  Task<> work(CancelToken stop) {
    AlignedBuffer a(piece_max), b(piece_max);
    for (;;) {
      co_await unwrap(running_.going_on(stop));
      const Part part = co_await next();
      if (part.range.empty()) co_return;
      co_await compare(part, a, b);
      running_.advance(part.range.length);
    }
  }

  Task<> compare(Part part, AlignedBuffer& a, AlignedBuffer& b) {
    if (part.first_zero && part.second_zero) co_return;
    co_await fill(first_, part.range, part.first_zero, a);
    co_await fill(second_, part.range, part.second_zero, b);
    if (std::memcmp(a.data(), b.data(), part.range.length) == 0) co_return;
    const auto differs = std::mismatch(a.data(), a.data() + part.range.length, b.data()).first - a.data();
    note(report_.content_at, part.range.offset + static_cast<std::uint64_t>(differs));
  }

  static Task<> fill(Edge& disk, Range range, bool zero, AlignedBuffer& buffer) {
    const MutableBytes bytes = buffer.bytes().first(range.length);
    if (zero) Buffers(bytes).fill_zero();
    else co_await disk.read(range.offset, Buffers(bytes));
  }

  static void note(std::optional<std::uint64_t>& where, std::uint64_t at) { where = std::min(where.value_or(at), at); }

  Edge& first_;
  Edge& second_;
  CompareOptions& options_;
  Running running_;
  Range left_;
  Mutex turn_;
  CompareReport report_;
};

}  // namespace

Task<CompareReport> compare_disks(Edge& first, Edge& second, CompareOptions options) {
  Compare compare(first, second, options);
  co_return co_await compare.run();
}

}  // namespace tidemark::image
