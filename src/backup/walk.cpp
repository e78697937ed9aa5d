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
    const auto walked = co_await with_group(disk_.node().reactor(), body).result();
    if (!walked && (report_.mismatches == 0 || walked.error().code() == Errc::cancelled)) co_await walked.error();
    if (!walked) report_.read_error = walked.error().message();     // what was found by then is damage all the same
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
      if (piece.zero) {
        co_await check_zero(piece.range, buffer.bytes(), stop);
      } else {
        co_await check_by_reading(piece, buffer.bytes());
        advance(piece.range.length);
      }
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
  Task<> check_zero(Range range, MutableBytes buffer, CancelToken stop) {
    while (!range.empty()) {
      co_await unwrap(going_on(stop));
      const auto status = co_await block_status_above(disk_.node(), nullptr, range).result();
      Range part = status ? status->range : range;
      if (status && status->zero) {
        report_.zero_bytes += part.length;
        if (sink_) co_await sink_->zero(part);
      } else {
        const std::uint64_t end = std::min(align_up(part.end(), expected_.granularity()), range.end());
        part.length = std::min<std::uint64_t>(end - part.offset, buffer.size());
        Expectation zeroes;
        zeroes.range = part;
        zeroes.zero = true;
        co_await check_by_reading(zeroes, buffer);
      }
      advance(part.length);
      range = {part.end(), range.length - part.length};
    }
  }

  // What cannot be read in one is read granule by granule: those that can be are as good as others.
  Task<> check_by_reading(const Expectation& piece, MutableBytes buffer) {
    const MutableBytes bytes = buffer.first(piece.range.length);
    const auto whole = co_await disk_.read(piece.range.offset, bytes).result();
    if (!whole && !is_damage(whole.error())) co_await whole.error();
    std::uint64_t& verified = piece.zero ? report_.zero_bytes : report_.data_bytes;
    bool right = true;
    for (std::uint64_t at = 0; at < bytes.size(); at += expected_.granularity()) {
      const MutableBytes granule = bytes.subspan(at, std::min<std::uint64_t>(expected_.granularity(), bytes.size() - at));
      const Range where{piece.range.offset + at, granule.size()};
      Result<> read;
      if (!whole) read = co_await disk_.read(where.offset, granule).result();
      if (read && (piece.zero ? is_zero(granule) : Digest::of(granule) == piece.digests[at / expected_.granularity()])) {
        verified += granule.size();
        continue;
      }
      right = false;
      co_await mismatch(where, read);
    }
    if (!right || !sink_) co_return;
    if (piece.zero) co_await sink_->zero(piece.range);
    else co_await sink_->data(piece.range.offset, bytes);
  }

  // That something outside the backup keeps it from being read says nothing about it.
  Task<> mismatch(Range where, Result<> read) {
    if (!read && !is_damage(read.error())) co_await read.error();
    if (options_.stop_at_first_mismatch) {
      if (!read) co_await as_damage(read.error());
      co_await Error(Errc::corrupt, fmt::format("the backup is damaged: bytes {} to {} of the disk do not match their checksum",
                                                where.offset, where.end()));
    }
    ++report_.mismatches;
    if (!read && report_.read_error.empty()) report_.read_error = read.error().message();
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
