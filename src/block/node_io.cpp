// The requests of a node, as they arrive through an edge: wait while drained, check, mark, count,
// and hand on what is aligned.  What is not goes through node_padding.cpp.
#include <algorithm>
#include <optional>

#include "block/graph.hpp"
#include "block/lost_content.hpp"
#include "block/node_marks.hpp"
#include "block/node_timed.hpp"

namespace tidemark {
namespace {

// What a disk is about to lose is copied there; with that disk as its backing file (fleecing) clients read a moment of it there.
// A read looks into one layer after the other: one that has not found a copy must end before the disk is written.
// The copy may come through filters.
bool copies(const Edge& user) noexcept {
  if (user.role() == Role::target) return true;
  if (user.role() != Role::filtered || !user.parent()) return false;
  const auto& above = user.parent()->parents();
  return std::any_of(above.begin(), above.end(), [](const Edge* edge) { return copies(*edge); });
}

}  // namespace

bool BlockNode::shows_old_data() const noexcept {
  return backing() && std::any_of(parents_.begin(), parents_.end(), [](const Edge* user) { return copies(*user); });
}

Task<> BlockNode::wait_unquiesced(Edge& via) {
  while (via.node_->quiesced_) co_await via.node_->graph_->unquiesced_.wait();
}

Task<InFlight> BlockNode::enter(Edge& via) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  co_return InFlight(*via.node_);
}

void BlockNode::layer_changed() noexcept { ++graph_->chain_epoch_; }

bool BlockNode::simple(std::uint64_t offset, const Buffers& data) const noexcept {
  const std::uint64_t align = limits_.request_align;
  return ((offset | data.size()) & (align - 1)) == 0 &&
         (limits_.max_transfer == 0 || data.size() <= limits_.max_transfer) &&
         (limits_.memory_align <= 1 || data.aligned(limits_.memory_align));
}

// Meanwhile the disk may have become smaller.
Task<> BlockNode::wait_admitted(Range range) {
  co_await tracking_->admit(range);
  co_await unwrap(check_range(range.offset, range.length, "write"));
}

Task<> BlockNode::read(Edge& via, std::uint64_t offset, Buffers into) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  Timed timed(via, node.stats_.read, into.size());
  if (!fits(offset, into.size(), node.size())) co_await unwrap(node.check_range(offset, into.size(), "read"));
  if (into.empty()) co_return timed.done();
  const Range range{offset, into.size()};
  auto reading = node.hold_old_data(range);
  if (node.shows_old_data()) co_await reading;
  if (node.simple(offset, into)) co_await node.driver_->read(offset, into);
  else co_await node.read_bounced(offset, into);
  timed.done();
}

Task<> BlockNode::write(Edge& via, std::uint64_t offset, Buffers from, WriteFlags flags) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  if (node.options_.detect_zeroes != DetectZeroes::off && from.all_zero()) {
    const Range range{offset, from.size()};
    const bool unmap = node.options_.detect_zeroes == DetectZeroes::unmap;
    if (unmap) flags = flags | WriteFlags::may_unmap;
    co_return co_await write_zeroes(via, range, flags);
  }
  Timed timed(via, node.stats_.write, from.size());
  Changing changing(via);
  const Range range{offset, from.size()};
  if (auto ok = node.check_writable(via, range, "write"); !ok) co_await ok.error();
  node.note_write(range);
  const Marks marks(node, range, flags);
  if (!node.admitted(range, flags)) co_await node.wait_admitted(range);
  if (node.ignores_flush_) flags = without(flags, WriteFlags::fua);
  const bool durably = has(flags, WriteFlags::fua), flush_after = durably && !node.driver_->supports_fua();
  if (flush_after) flags = without(flags, WriteFlags::fua);
  if (!from.empty() && has(flags, WriteFlags::fua)) co_await node.put_durably(offset, from, flags);
  else if (!from.empty()) co_await node.put(offset, from, flags);
  auto readers = node.unit_lock_.hold(range, RangeLock::Mode::exclusive);
  if (node.shows_old_data() && copies(via)) co_await readers;
  if (flush_after) co_await node.make_durable();
  if (durably && changing.lost()) co_await changing.loss();
  changing.done();
  timed.done();
}

Task<> BlockNode::write_zeroes(Edge& via, Range range, WriteFlags flags) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  Timed timed(via, node.stats_.write_zeroes, range.length);
  Changing changing(via);
  if (auto ok = node.check_writable(via, range, "write zeroes to"); !ok) co_await ok.error();
  // What guests ask for; it need not be done by unmapping.  Else as the node's storage is to be used.
  if (!node.options_.discard && !via.is_root()) flags = without(flags, WriteFlags::may_unmap);
  node.note_write(range);
  const Marks marks(node, range, flags);
  if (!node.admitted(range, flags)) co_await node.wait_admitted(range);
  const bool flush_after = has(flags, WriteFlags::fua) && !node.ignores_flush_;
  const Range whole = range.narrowed(node.limits_.write_zeroes_align);
  const WriteFlags part_flags = without(flags, WriteFlags::fua);
  if (whole.empty()) {
    co_await node.zero_by_writing(range, part_flags);
  } else {
    co_await node.zero_whole(whole, part_flags);
    const Range head{range.offset, whole.offset - range.offset};
    const Range tail{whole.end(), range.end() - whole.end()};
    if (!head.empty()) co_await node.zero_by_writing(head, part_flags);
    if (!tail.empty()) co_await node.zero_by_writing(tail, part_flags);
  }
  auto readers = node.unit_lock_.hold(range, RangeLock::Mode::exclusive);
  if (node.shows_old_data() && copies(via)) co_await readers;
  if (flush_after) co_await node.make_durable();
  if (flush_after && changing.lost()) co_await changing.loss();
  changing.done();
  timed.done();
}

Task<> BlockNode::write_compressed(Edge& via, std::uint64_t offset, Buffers from) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  Timed timed(via, node.stats_.write, from.size());
  Changing changing(via);
  const Range range{offset, from.size()};
  if (auto ok = node.check_writable(via, range, "write"); !ok) co_await ok.error();
  node.note_write(range);
  const Marks marks(node, range, WriteFlags::none);
  if (!node.admitted(range, WriteFlags::none)) co_await node.wait_admitted(range);
  {
    auto units = node.unit_lock_.hold(range, RangeLock::Mode::shared);
    if (node.limits_.request_align > 1) co_await units;
    co_await node.driver_->write_compressed(offset, from);
  }
  auto readers = node.unit_lock_.hold(range, RangeLock::Mode::exclusive);
  if (node.shows_old_data() && copies(via)) co_await readers;
  changing.done();
  timed.done();
}

Task<> BlockNode::discard(Edge& via, Range range) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  Timed timed(via, node.stats_.discard, range.length);
  Changing changing(via);
  if (auto ok = node.check_writable(via, range, "discard"); !ok) co_await ok.error();
  range = range.narrowed(node.limits_.discard_align);
  while (node.options_.discard && !range.empty()) {
    const std::uint64_t max = align_down(node.limits_.max_zeroes, node.limits_.discard_align);
    const Range part{range.offset, max && range.length > max ? max : range.length};
    const Marks marks(node, part, WriteFlags::none);
    if (!node.admitted(part, WriteFlags::none)) co_await node.wait_admitted(part);
    auto units = node.unit_lock_.hold(part, RangeLock::Mode::shared);
    if (node.limits_.request_align > 1) co_await units;
    auto done = co_await node.driver_->discard(part).result();
    if (!done && done.error().code() == Errc::unsupported) break;      // advisory
    if (!done) co_await done.error();
    range = {part.end(), range.length - part.length};
  }
  changing.done();
  timed.done();
}

Task<> BlockNode::flush(Edge& via, std::uint64_t& told) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  Timed timed(via, node.stats_.flush, 0);
  const std::uint64_t changes = via.changes_, told_before = told;
  // One that began before may yet fail, with what this one takes for durable.
  const bool alone = !node.flush_under_way();
  node.unflushed_ = false;                               // who is told that it failed knows what that means
  const Result<> flushed = co_await node.make_durable().result();
  told = std::max(told, via.losses_);
  co_await unwrap(flushed);
  if (via.losses_ != told_before) co_await via.lost_->with_context("what was written before may be lost");
  if (alone) via.flushed_ = std::max(via.flushed_, changes);
  timed.done();
}

// A storage whose flush fails may have dropped anything that was written to it since the last one, and the next flush may
// succeed: who did not ask for this one must not take that for a promise.
Task<> BlockNode::make_durable() {
  if (ignores_flush_) co_return;
  ++flushing_;
  const Result<> flushed = co_await driver_->flush().result();
  --flushing_;
  if (!flushed && driver_->lost_by(flushed.error())) tell_lost(flushed.error());
  co_await unwrap(flushed);
}

Task<> BlockNode::open_anew() {
  const bool lost = driver_->lost();
  const Result<> opened = co_await driver_->open_anew().result();
  if (!opened && driver_->lost_by(opened.error())) tell_lost(opened.error());
  if (lost) tell_shown_anew();
  co_await unwrap(opened);
}

Task<> BlockNode::put(std::uint64_t offset, Buffers from, WriteFlags flags) {
  if (limits_.request_align == 1 && simple(offset, from)) return driver_->write(offset, from, flags);
  return write_locked(offset, from, flags);
}

// Who makes it durable by a flush of its own may lose more than that; one without space has taken nothing.
Task<> BlockNode::put_durably(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const Result<> done = co_await put(offset, from, flags).result();
  if (!done && done.error().code() != Errc::no_space && driver_->lost_by(done.error())) tell_lost(done.error());
  co_await unwrap(done);
}

bool BlockNode::flush_under_way() const noexcept {
  if (flushing_ != 0) return true;
  const std::vector<Edge*> edges = driver_->edges();
  return std::any_of(edges.begin(), edges.end(), [](const Edge* e) { return keeps_content(e->role()) && e->node().flush_under_way(); });
}

void BlockNode::tell_lost(const Error& why) noexcept {
  ++losses_;
  mark_lost_content(*this);
  for (Edge* user : parents_) {
    if (user->is_root() || user->role() == Role::target) {
      if (user->changes_ == user->flushed_) continue;    // what it has written is durable
      ++user->losses_;
      user->lost_ = why;
    } else if (user->parent() && keeps_content(user->role())) {
      user->parent()->tell_lost(why);
    }
  }
}

// Of who stands on it only: whoever remembers what it has lost itself, as an image does, is to lose nothing by its end.
void BlockNode::tell_shown_anew() noexcept {
  mark_lost_content(*this);
  for (Edge* user : parents_) {
    if (!user->parent() || !keeps_content(user->role())) continue;
    ++user->parent()->losses_;
    user->parent()->tell_shown_anew();
  }
}

// The flush that follows tells what fails.
Task<> BlockNode::write_back(Edge& via, PageCache after) {
  BlockNode& node = *via.node_;
  if (via.is_root() && node.quiesced_) co_return;
  InFlight in_flight(node);
  (void)co_await node.driver_->write_back(after).result();
}

Task<> BlockNode::truncate(Edge& via, std::uint64_t size, Growth growth) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  InFlight in_flight(node);
  Changing changing(via);
  if (auto ok = node.check_writable(via, {}, "resize"); !ok) co_await ok.error();
  if (size > align_down(max_disk_size, sector_size))
    co_await Error(Errc::out_of_range, "resize node '" + node.name() + "': " + std::to_string(size) +
                                           " bytes are more than a disk can have");
  node.remember_size(node.size());                     // it may have grown from below
  const std::uint64_t before = node.size(), largest = node.size_largest_;
  // A last sector that is cut within reads as zeroes behind that.
  std::optional<Marks> torn;
  const Range last{align_down(size, sector_size), sector_size};
  if (size < node.driver_->size() && size != last.offset) torn.emplace(node, last, WriteFlags::none);
  if (node.tracking_ && size < before) {
    // Once it is cut off nobody can mark it, and a crash may come before its size is known to be smaller.
    const Range cut{size, before - size};
    node.bitmaps_.mark(cut);
    if (!node.tracking_->admitted(cut)) co_await node.tracking_->admit(cut);
  }
  const Result<> resized = co_await node.driver_->truncate(size, growth).result();
  node.unflushed_ = true;
  if (node.stood_on_) node.layer_changed();
  co_await unwrap(resized);
  changing.done();
  const std::uint64_t after = node.size();
  node.bitmaps_.truncate(after);
  node.remember_size(after);
  if (node.tracking_) node.tracking_->resized(after);
  const std::uint64_t changed_end = growth == Growth::as_it_is ? after : std::min(after, largest);
  if (before < changed_end) {
    // The regrown part held other bytes once: what reads as zeroes now has changed.
    const Range regrown{before, changed_end - before};
    node.bitmaps_.mark(regrown);
    if (!node.admitted(regrown, WriteFlags::none)) co_await node.tracking_->admit(regrown);
  }
}

Task<Extent> BlockNode::map(Edge& via, Range wanted) {
  if (via.is_root() && via.node_->quiesced_) co_await wait_unquiesced(via);
  BlockNode& node = *via.node_;
  InFlight in_flight(node);
  co_await unwrap(node.check_range(wanted.offset, wanted.length, "map"));
  TM_ASSERT(wanted.length > 0);
  const std::uint64_t stored = node.driver_->size();
  if (wanted.offset >= stored) co_return Extent{wanted, Mapping::zero, {}};    // the odd tail of a sector
  if (wanted.end() > stored) wanted.length = stored - wanted.offset;
  co_return co_await node.driver_->map(wanted);
}

}  // namespace tidemark
