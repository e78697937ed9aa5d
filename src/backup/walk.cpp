#include "backup/walk.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "block/status.hpp"
#include "io/aligned.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t piece_max = 1 * MiB;
constexpr int workers = 8;

class Walk {
 public:
  Walk(Edge& disk, Expectations& expected, WalkSink* sink, WalkOptions& options)
      : disk_(disk), expected_(expected), sink_(sink), options_(options), turn_(disk.node().reactor()) {}

  Task<WalkReport> run() {
    auto body = [this](TaskGroup& group) -> Task<> {
      for (int i = 0; i < workers; ++i) group.spawn(work(group.token()));
      co_await group.join();
    };
    co_await with_group(disk_.node().reactor(), body);
    co_return std::move(report_);
  }

 private:
  Task<> work(CancelToken stop) {
    AlignedBuffer buffer(std::max<std::uint64_t>(piece_max, expected_.granularity()));
    for (;;) {
      co_await unwrap(going_on(stop));
      Expectation piece;
      {
        auto turn = co_await turn_.lock();
        piece = co_await expected_.next(buffer.size());
      }
      if (piece.range.empty()) co_return;
      if (piece.zero) co_await check_zero(piece.range, buffer, stop);
      else co_await check_data(piece, buffer);
      if (!piece.zero) advance(piece.range.length);
    }
  }

  Result<> going_on(CancelToken stop) const {
    if (stop.requested() || options_.interrupted.requested()) return cancelled_error();
    return {};
  }

  void advance(std::uint64_t bytes) {
    done_ += bytes;
    if (options_.progress) options_.progress(done_);
  }

  // What must be zero mostly is by the image's own word; only the rest is read.  One piece may be a whole disk.
  Task<> check_zero(Range range, AlignedBuffer& buffer, CancelToken stop) {
    while (!range.empty()) {
      co_await unwrap(going_on(stop));
      const BlockStatus status = co_await block_status_above(disk_.node(), nullptr, range);
      const Range part = status.range;
      if (status.zero) {
        report_.zero_bytes += part.length;
        if (sink_) co_await sink_->zero(part);
        advance(part.length);
      } else {
        co_await check_zero_by_reading(part, buffer, stop);
      }
      range = {part.end(), range.length - part.length};
    }
  }

  Task<> check_zero_by_reading(Range range, AlignedBuffer& buffer, CancelToken stop) {
    while (!range.empty()) {
      co_await unwrap(going_on(stop));
      const MutableBytes bytes = buffer.bytes().first(std::min<std::uint64_t>(buffer.size(), range.length));
      const Range part{range.offset, bytes.size()};
      auto read = co_await disk_.read(part.offset, bytes).result();
      if (!read || !is_zero(bytes)) {
        co_await mismatch(part, read);
      } else {
        report_.zero_bytes += part.length;
        if (sink_) co_await sink_->zero(part);
      }
      advance(part.length);
      range = {part.end(), range.length - part.length};
    }
  }

  Task<> check_data(const Expectation& piece, AlignedBuffer& buffer) {
    const MutableBytes bytes = buffer.bytes().first(piece.range.length);
    auto read = co_await disk_.read(piece.range.offset, bytes).result();
    if (!read) co_return co_await mismatch(piece.range, read);
    bool right = true;
    for (std::size_t i = 0; i < piece.digests.size(); ++i) {
      const std::uint64_t at = i * expected_.granularity();
      const Bytes granule = bytes.subspan(at, std::min<std::uint64_t>(expected_.granularity(), bytes.size() - at));
      if (Digest::of(granule) == piece.digests[i]) continue;
      right = false;
      const Range where{piece.range.offset + at, granule.size()};
      co_await mismatch(where, Result<>());
    }
    if (!right) co_return;
    report_.data_bytes += bytes.size();
    if (sink_) co_await sink_->data(piece.range.offset, bytes);
  }

  Task<> mismatch(Range where, Result<> read) {
    if (options_.stop_at_first_mismatch) {
      if (!read) co_await read.error();
      co_await Error(Errc::corrupt, fmt::format("the backup is damaged: bytes {} to {} of the disk do not match their checksum",
                                                where.offset, where.end()));
    }
    report_.mismatches += div_up(where.length, expected_.granularity());
    if (report_.first_mismatches.size() < WalkReport::mismatches_kept) report_.first_mismatches.push_back(where);
  }

  Edge& disk_;
  Expectations& expected_;
  WalkSink* sink_;
  WalkOptions& options_;
  Mutex turn_;
  WalkReport report_;
  std::uint64_t done_ = 0;
};

}  // namespace

Task<WalkReport> walk_point(Edge& disk, Expectations& expected, WalkSink* sink, WalkOptions options) {
  if (disk.size() != expected.disk_size())
    co_await Error(Errc::corrupt, fmt::format("the backup's image has {} bytes where its manifest says {}",
                                              disk.size(), expected.disk_size()));
  Walk walk(disk, expected, sink, options);
  co_return co_await walk.run();
}

}  // namespace tidemark
