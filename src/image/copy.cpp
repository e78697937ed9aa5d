#include "image/copy.hpp"

#include <algorithm>

#include "block/node.hpp"
#include "block/write_behind.hpp"
#include "image/extents.hpp"
#include "io/aligned.hpp"

namespace tidemark::image {
namespace {

constexpr std::uint64_t piece_max = 1 * MiB;

class Copy {
 public:
  Copy(Edge& source, Range area, Edge& target, CopyOptions& options)
      : source_(source), target_(target), options_(options), running_(target.node().reactor(), options.course),
        unit_(unit_of(target, options)), extents_(source, area, extent_options()), base_offset_(area.offset),
        behind_(target, PageCache::keep) {}

  Task<CopyReport> run() {
    auto worker = [this](CancelToken stop) { return work(stop); };
    const std::uint64_t workers = std::max<std::uint64_t>(1, options_.course.workers);
    co_await side_by_side(target_.node().reactor(), workers, worker);
    co_return report_;
  }

 private:
  // Zeroes that are less than a unit of the target's are not worth a request of their own.
  static std::uint64_t unit_of(const Edge& target, const CopyOptions& options) {
    const std::uint64_t cluster = std::bit_ceil(std::max<std::uint64_t>(1, target.node().limits().opt_transfer));
    return std::clamp<std::uint64_t>(std::max(cluster, std::bit_ceil(options.sparse)), sector_size, 2 * MiB);
  }

  Extents::Options extent_options() const {
    Extents::Options wanted;
    wanted.data_max = options_.compress ? unit_ : std::max(unit_, piece_max);
    wanted.align = options_.only_allocated ? sector_size : options_.compress ? unit_ : std::min<std::uint64_t>(unit_, piece_max);
    wanted.base = options_.base;
    wanted.only_allocated = options_.only_allocated;
    return wanted;
  }

  Task<> work(CancelToken stop) {
    AlignedBuffer buffer(std::max(unit_, piece_max));
    for (;;) {
      co_await unwrap(running_.going_on(stop));
      const Piece piece = co_await extents_.next();
      if (piece.range.empty()) co_return;
      if (piece.data) co_await running_.keep_pace(piece.range.length);
      if (piece.data) co_await copy_data(piece.range, buffer);
      else if (piece.zero) co_await put_zeroes(piece.range, buffer);
      else report_.skipped_bytes += piece.range.length;
      running_.advance(piece.range.length);
    }
  }

  std::uint64_t to(std::uint64_t offset) const noexcept { return offset - base_offset_ + options_.target_offset; }

  Task<> copy_data(Range range, AlignedBuffer& buffer) {
    const MutableBytes bytes = buffer.bytes().first(range.length);
    co_await source_.read(range.offset, Buffers(bytes));
    for (std::uint64_t at = 0; at < range.length;) {
      const bool zero = unit_is_zero(bytes, range.offset, at);
      std::uint64_t end = next_unit(range, at);
      while (end < range.length && unit_is_zero(bytes, range.offset, end) == zero) end = next_unit(range, end);
      const Range part{range.offset + at, end - at};
      if (zero) co_await put_zeroes(part, buffer);
      else co_await put_data(part, bytes.subspan(at, part.length));
      at = end;
    }
  }

  std::uint64_t next_unit(Range range, std::uint64_t at) const noexcept {
    return std::min(range.length, align_down(range.offset + at, unit_) + unit_ - range.offset);
  }
  bool unit_is_zero(Bytes bytes, std::uint64_t offset, std::uint64_t at) const {
    if (options_.sparse == 0) return false;
    return is_zero(bytes.subspan(at, next_unit({offset, bytes.size()}, at) - at));
  }

  // Only clusters can be compressed; that of a source behind another one may begin anywhere.
  bool is_whole(Range there) const noexcept {
    return is_aligned(there.offset, unit_) && (is_aligned(there.length, unit_) || there.end() == target_.size());
  }

  Task<> put_data(Range range, MutableBytes bytes) {
    report_.data_bytes += range.length;
    const Range there{to(range.offset), range.length};
    if (options_.compress && is_whole(there)) co_await target_.write_compressed(there.offset, Buffers(bytes));
    else co_await target_.write(there.offset, Buffers(bytes));
    co_await behind_.wrote(range.length);
  }

  Task<> put_zeroes(Range range, AlignedBuffer& buffer) {
    report_.zero_bytes += range.length;
    if (options_.sparse == 0) co_return co_await write_zeroes_as_data(range, buffer);
    if (options_.target_is_zero) co_return;
    const Range there{to(range.offset), range.length};
    co_await target_.write_zeroes(there, WriteFlags::may_unmap);
  }

  Task<> write_zeroes_as_data(Range range, AlignedBuffer& buffer) {
    Buffers(buffer.bytes()).fill_zero();
    const CancelToken stop;                  // of Ctrl-C alone: a piece is finished when another fails
    for (std::uint64_t at = range.offset; at < range.end(); at += buffer.size()) {
      co_await unwrap(running_.going_on(stop));
      const std::uint64_t length = std::min<std::uint64_t>(buffer.size(), range.end() - at);
      co_await target_.write(to(at), Buffers(buffer.bytes().first(length)));
    }
  }

  Edge& source_;
  Edge& target_;
  CopyOptions& options_;
  Running running_;
  const std::uint64_t unit_;
  Extents extents_;
  const std::uint64_t base_offset_;
  CopyReport report_;
  WriteBehind behind_;
};

}  // namespace

Task<CopyReport> copy_disk(Edge& source, Range area, Edge& target, CopyOptions options) {
  Copy copy(source, area, target, options);
  co_return co_await copy.run();
}

}  // namespace tidemark::image
