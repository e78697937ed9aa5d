// Requests that are not what the driver wants: split to max_transfer, copied where memory is not
// aligned, and padded to request_align units by read-modify-write.
//
// Invariant: where units exist (request_align > 1) every write holds its units in unit_lock_, shared
// when it covers them whole and exclusive when it must read them first, so that none is lost.
#include <algorithm>

#include "block/node.hpp"
#include "io/aligned.hpp"

namespace tidemark {
namespace {

constexpr std::size_t bounce_max = 1 * MiB;

}  // namespace

std::size_t BlockNode::transfer_max() const noexcept {
  const std::size_t unit = limits_.request_align;        // which may be larger than what is wanted
  if (limits_.max_transfer == 0) return std::max(unit, bounce_max);
  const std::size_t max = align_down(limits_.max_transfer, limits_.request_align);
  return std::max(unit, std::min(bounce_max, max));
}

Task<> BlockNode::read_bounced(std::uint64_t offset, Buffers into) {
  while (!into.empty()) {
    // Long aligned requests are only split; the rest is read whole units at a time and copied out.
    const std::uint64_t start = align_down(offset, limits_.request_align);
    const auto skip = static_cast<std::size_t>(offset - start);
    const std::size_t part = std::min(into.size(), transfer_max() - skip);
    const Buffers piece = into.first(part);
    if (simple(offset, piece)) {
      co_await driver_->read(offset, piece);
    } else {
      AlignedBuffer bounce(align_up(skip + part, limits_.request_align));
      co_await driver_->read(start, bounce.bytes());
      piece.copy_from(bounce.bytes().subspan(skip, part));
    }
    offset += part;
    into = into.from(part);
  }
}

Task<> BlockNode::write_locked(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const Range range{offset, from.size()};
  const std::uint64_t unit = limits_.request_align;
  const bool whole = is_aligned(offset | from.size(), unit);
  auto units = unit_lock_.hold(range.widened(unit),
                               whole ? RangeLock::Mode::shared : RangeLock::Mode::exclusive);
  co_await units;
  co_await write_split(offset, from, flags);
}

Task<> BlockNode::write_split(std::uint64_t offset, Buffers from, WriteFlags flags) {
  while (!from.empty()) {
    const std::size_t skip = offset & (limits_.request_align - 1);
    const std::size_t part = std::min(from.size(), transfer_max() - skip);
    const Buffers piece = from.first(part);
    if (simple(offset, piece)) co_await driver_->write(offset, piece, flags);
    else co_await write_bounced(offset, piece, flags);
    offset += part;
    from = from.from(part);
  }
}

Task<> BlockNode::write_bounced(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const std::uint32_t unit = limits_.request_align;
  const Range range{offset, from.size()};
  const Range units = range.widened(unit);
  AlignedBuffer bounce(units.length);
  const MutableBytes bytes = bounce.bytes();
  const std::uint64_t last = units.end() - unit;
  if (units.offset != range.offset) {
    driver_->told(DebugEvent::pwritev_rmw_head);
    co_await driver_->read(units.offset, bytes.first(unit));
    driver_->told(DebugEvent::pwritev_rmw_after_head);
  }
  if (units.end() != range.end() && (last != units.offset || units.offset == range.offset)) {
    driver_->told(DebugEvent::pwritev_rmw_tail);
    co_await driver_->read(last, bytes.last(unit));
    driver_->told(DebugEvent::pwritev_rmw_after_tail);
  }
  from.copy_to(bytes.subspan(offset - units.offset, from.size()));
  co_await driver_->write(units.offset, Buffers(bytes), flags);
}

Task<> BlockNode::zero_whole(Range range, WriteFlags flags) {
  auto units = unit_lock_.hold(range, RangeLock::Mode::shared);
  if (limits_.request_align > 1) co_await units;
  while (!range.empty()) {
    const std::uint64_t max = align_down(limits_.max_zeroes, limits_.write_zeroes_align);
    const Range part{range.offset, max && range.length > max ? max : range.length};
    auto done = co_await driver_->write_zeroes(part, flags).result();
    if (!done && (done.error().code() != Errc::unsupported || has(flags, WriteFlags::no_fallback)))
      co_await done.error();
    if (!done) {
      units.unlock();
      co_return co_await zero_by_writing(range, flags);
    }
    range = {part.end(), range.length - part.length};
  }
}

Task<> BlockNode::zero_by_writing(Range range, WriteFlags flags) {
  flags = without(without(flags, WriteFlags::may_unmap), WriteFlags::no_fallback);
  AlignedBuffer zeroes(std::min<std::uint64_t>(range.length, transfer_max()));
  Buffers(zeroes.bytes()).fill_zero();
  while (!range.empty()) {
    const std::size_t part = std::min<std::uint64_t>(range.length, zeroes.size());
    co_await write_locked(range.offset, Buffers(zeroes.bytes().first(part)), flags);
    range = {range.offset + part, range.length - part};
  }
}

}  // namespace tidemark
