// Copying a point's content to where old data is kept.
#include <algorithm>

#include "block/status.hpp"
#include "filter/point_claim.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t look_max = 1 * GiB;  // for what is not allocated

// The end of the stretch of granules that `flags` says the same of as of the first, within `area`.
std::uint64_t end_of_alike(const DirtyBitmap& flags, Range area) noexcept {
  if (flags.empty()) return area.end();
  const bool set = flags.test(area.offset);
  const auto other = set ? flags.next_clean(area.offset) : flags.next_dirty(area.offset);
  return std::min(other.value_or(area.end()), area.end());
}

}  // namespace

// The first granules that are todo, as far as they are alike.
std::optional<Point::Candidate> Point::next_candidate(Range range, std::uint64_t length_max) const noexcept {
  auto area = todo_.next_dirty_area(range.offset, range.end(), align_up(length_max, granule()));
  if (!area) return std::nullopt;
  area->length = end_of_alike(zero_, *area) - area->offset;
  if (zero_.test(area->offset)) return Candidate{*area, Kind::zero};
  area->length = end_of_alike(staged_, *area) - area->offset;
  return Candidate{*area, staged_.test(area->offset) ? Kind::staged : Kind::plain};
}

// What to copy at once.  Where data is moved, a strewn few staged granules do not break it into pieces.
std::optional<Point::Candidate> Point::next_piece(Range range, const Stride& stride,
                                                  std::uint64_t data_max) const noexcept {
  auto candidate = next_candidate(range, stride.window);
  if (!candidate || candidate->kind == Kind::zero || drops_unallocated()) return candidate;
  const bool moves = stride.window <= data_max;
  if (candidate->kind == Kind::plain && (!moves || candidate->range.length >= data_max)) return candidate;
  auto area = todo_.next_dirty_area(range.offset, range.end(), data_max);
  area->length = end_of_alike(zero_, *area) - area->offset;
  const bool any = staged_.next_dirty_area(area->offset, area->end()).has_value();
  return Candidate{*area, any ? Kind::staged : Kind::plain};
}

Task<Point::Outcome> Point::copy_some(Range range, Stride& stride, MutableBytes buffer,
                                      std::unique_ptr<Reading> reading) {
  stride.window = std::min(std::max<std::uint64_t>(stride.window, buffer.size()), stride.window_max);
  stride.done = 0;
  if (broken_) co_return broken_;
  auto candidate = next_piece(range, stride, buffer.size());
  if (!candidate) co_return std::nullopt;
  if (candidate->kind == Kind::staged)
    candidate->range.length = std::min<std::uint64_t>(candidate->range.length, buffer.size());
  Claim claim(*this, *candidate, std::move(reading));
  if (candidate->kind == Kind::plain) co_return co_await copy_plain(claim, stride, buffer);
  stride.done = claim.range().length;
  if (candidate->kind == Kind::staged) co_return co_await copy_staged(claim, buffer);
  co_return co_await copy_zeroes(claim);
}

Task<Point::Outcome> Point::copy_plain(Claim& claim, Stride& stride, MutableBytes buffer) {
  auto status = co_await look_at(claim.range()).result();
  if (!status) co_return Failure{status.error(), true};
  const bool unallocated = drops_unallocated() && !status->allocated;
  const std::uint64_t alike = whole_granules(claim.range(), status->range.length);
  const bool nothing_to_move = (unallocated || status->zero) && alike != 0;
  if (nothing_to_move) {
    claim.shrink(alike);
    stride.window *= 2;
  } else {
    claim.shrink(align_up(std::min<std::uint64_t>(status->range.length, buffer.size()), granule()));
    stride.window = 0;
  }
  stride.done = claim.range().length;
  if (!nothing_to_move) co_return co_await copy_data(claim, buffer);
  if (!unallocated) co_return co_await copy_zeroes(claim);
  claim.drop();
  co_return std::nullopt;
}

Task<Point::Outcome> Point::copy_zeroes(Claim& claim) {
  claim.let_go(Kind::zero);
  if (broken_) co_return broken_;
  const Result<> kept = co_await sink_.keep_zeroes(claim.range()).result();
  if (!kept) co_return Failure{kept.error(), false};
  claim.keep();
  co_return std::nullopt;
}

// Without a stage a granule may be larger than the buffer; with one, all is read at once.
Task<Point::Outcome> Point::copy_data(Claim& claim, MutableBytes buffer) {
  for (Range left = claim.range(); !left.empty();) {
    const MutableBytes data = buffer.first(std::min<std::uint64_t>(left.length, buffer.size()));
    const Buffers into = data;
    const Result<> read = co_await source_.read(left.offset, into).result();
    if (!read) co_return Failure{read.error(), true};
    claim.let_go(Kind::plain, data);
    Outcome failed = co_await deliver(left.offset, data);
    if (failed) co_return failed;
    left = {left.offset + data.size(), left.length - data.size()};
  }
  claim.keep();
  co_return std::nullopt;
}

// What is not staged is still on the disk.
Task<Point::Outcome> Point::copy_staged(Claim& claim, MutableBytes buffer) {
  const Range range = claim.range();
  const MutableBytes data = buffer.first(range.length);
  const Result<> read = co_await read_missing(range, data).result();
  if (!read) co_return Failure{read.error(), true};
  claim.let_go(Kind::staged, data);
  const Result<> fetched = co_await stage_->fetch(range, data).result();
  if (!fetched) {
    break_with({fetched.error(), true});  // nobody else has it
    co_return Failure{fetched.error(), true};
  }
  Outcome failed = co_await deliver(range.offset, data);
  if (failed) co_return failed;
  stage_->forget(range);
  claim.keep();
  co_return std::nullopt;
}

// A target that nobody wants any more is given nothing.
Task<Point::Outcome> Point::deliver(std::uint64_t offset, Bytes data) {
  if (broken_) co_return broken_;
  const Result<> kept = co_await sink_.keep(offset, Buffers::of_const(data)).result();
  if (kept) co_return std::nullopt;
  co_return Failure{kept.error(), false};
}

// In one go, from the first unit that is missing to the last.
Task<> Point::read_missing(Range range, MutableBytes into) {
  const auto first = stage_->next_missing(range);
  if (!first) co_return;
  Range last = *first;
  while (const auto next = stage_->next_missing({last.end(), range.end() - last.end()})) last = *next;
  const Buffers there = into.subspan(first->offset - range.offset, last.end() - first->offset);
  co_await source_.read(first->offset, there);
}

Task<std::uint64_t> Point::drop_unallocated(std::uint64_t from) {
  const auto candidate = next_candidate({from, size() - from}, look_max);
  if (!candidate) co_return size();
  if (candidate->kind != Kind::plain) co_return candidate->range.end();
  // The claim keeps writers away while the layer is looked at: what they write would count as
  // there.
  Claim claim(*this, *candidate, nullptr);
  const BlockStatus status = co_await look_at(claim.range());
  const std::uint64_t alike = whole_granules(claim.range(), status.range.length);
  if (status.allocated || alike == 0)
    co_return std::min(align_up(status.range.end(), granule()), size());
  const std::uint64_t end = claim.range().offset + alike;
  claim.shrink(alike);
  claim.drop();
  co_return end;
}

// What is dropped, if it may be, is not allocated.
Task<BlockStatus> Point::look_at(Range range) {
  const bool changed = changed_ && changed_->test(range.offset);
  if (changed_) range.length = end_of_alike(*changed_, range) - range.offset;
  BlockNode* below = below_ ? &below_->node() : changed_below_;
  if (changed) below = nullptr;
  BlockStatus status = co_await block_status_above(source_.node(), below, range);
  status.allocated = status.allocated || changed;
  co_return status;
}

// How much of `range` is granules of which `length` bytes from its start on tell all.
std::uint64_t Point::whole_granules(Range range, std::uint64_t length) const noexcept {
  return length == range.length ? length : align_down(length, granule());
}

}  // namespace tidemark
