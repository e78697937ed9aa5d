// How a mirror ends: the disk held still, the pivot, what becomes of the filter and of the bitmap.
#include "job/mirror/mirror.hpp"

#include "job/losses.hpp"
#include "job/patient_drain.hpp"

namespace tidemark {
namespace {

constexpr Duration target_patience = std::chrono::seconds(1);     // once the mirror has failed
constexpr Duration still_max = std::chrono::milliseconds(500);    // that guests wait for the end of it
constexpr Duration catch_up_max = std::chrono::seconds(30);

}  // namespace

// Holds the source still and makes the target equal and durable; guests go on when that takes too long.
Task<Point::Outcome> MirrorJob::settle() {
  Reactor& reactor = options_.source->reactor();
  if (mark_lost()) co_return std::nullopt;               // to be copied while guests go on
  // Should it fail, the pivot says why.
  const Result<BlockNode*> replaced = find_replaced(options_);
  if (brings_bitmaps() && replaced) (void)co_await options_.access->prepare_bitmaps(**replaced, *options_.target).result();
  auto drained = co_await graph().drain_within(*options_.source, still_max).result();
  if (!drained) co_return std::nullopt;                  // their own requests do
  std::optional<Graph::DrainGuard> still(*std::move(drained));
  CancelSource late, done;
  Point::Outcome failed;
  const auto finish = [&]() -> Task<> {
    failed = co_await copy_->run_drained(late.token());
    if (!failed && !late.requested()) failed = co_await flush_target();
    if (!failed && !late.requested() && options_.onto_source) failed = co_await flush_source();
    done.request();
  };
  const auto in_time = [&](TaskGroup& group) -> Task<> {
    group.spawn(finish());
    if (!done.requested()) (void)co_await reactor.sleep(still_max, done.token()).result();
    if (!done.requested()) still.reset();
    late.request();
    co_await group.join();
  };
  co_await with_group(reactor, in_time);
  if (still && !failed && !mark_lost() && top().dirty().empty()) still_.emplace(*std::move(still));
  co_return failed;
}

// For a job that had to wait for others: guests have gone on.
Task<> MirrorJob::catch_up() {
  Reactor& reactor = options_.source->reactor();
  const Instant end = reactor.now() + catch_up_max;
  const auto in_time = [&](TaskGroup& group) -> Task<> {
    if (!commit_) group.spawn(press_target_from(end, group.token()));
    co_await catch_up_until(end);
  };
  const Result<> done = co_await with_group(reactor, in_time).result();
  if (!done && reactor.now() >= end)
    co_await Error(Errc::timed_out, "the target does not keep up with the disk: it stays as it is");
  co_await unwrap(done);
}

Task<> MirrorJob::catch_up_until(Instant end) {
  Reactor& reactor = options_.source->reactor();
  while (!still_) {
    if (reactor.now() >= end) co_await Error(Errc::timed_out, "it is too late");
    const auto enough = [&] { return little_differs() || reactor.now() >= end; };
    Point::Outcome failed = co_await copy_->run_to_end(enough);
    if (!failed) failed = co_await flush_target();
    if (!failed) failed = co_await settle();
    if (failed) co_await failed->error;
  }
}

// Nothing of the job's own can stop its end any more but an error.
Task<> MirrorJob::prepare() {
  if (!still_) co_await catch_up();
  if (loses_bits()) bitmap_->refreeze();
  const bool stays = ending_ == Ending::pivot && commit_ && commit_->keeps_top();
  Result<> ended;
  if (stays) ended = co_await stay_on_top().result();
  else if (ending_ == Ending::pivot) ended = co_await pivot().result();
  if (!ended && commit_) co_await commit_->undo_pivot();
  co_await unwrap(ended);
  top().retire();
  still_.reset();
  if (!loses_bits()) co_return;
  const InFlight under_way(*options_.source);
  const Result<> flushed = co_await top().file().flush().result();
  drops_ = flushed && check_nothing_lost(*filter_node_);                // else the bitmap keeps more than it needs to
}

Task<> MirrorJob::pivot() {
  BlockNode& source = below_filter();
  BlockNode& target = *options_.target;
  std::optional<Graph::DrainGuard> target_still(co_await graph().drain_within(target, still_max));      // others may use it
  BlockNode* replaced = &source;
  if (options_.replaces) replaced = co_await unwrap(find_replaced(options_));
  if (commit_) co_await commit_->prepare_pivot();
  auto bitmaps_stay = co_await graph().bitmap_changes().lock();          // until they have gone over
  if (brings_bitmaps()) co_await options_.access->bring_bitmaps(*replaced, target);
  edge_.reset();
  top().retire();
  if (commit_) commit_->let_go_of_layers();
  co_await unwrap(graph().replace(*filter_node_, source));
  top().let_go_of_target();
  co_await unwrap(graph().replace(*replaced, target));
  if (options_.onto_source) co_await unwrap(put_onto(*replaced));
  const Permissions nothing{0, Permissions::all};
  if (replaced != &source) replaced_ = co_await unwrap(Edge::attach(*replaced, Role::filtered, nothing, user()));
  if (commit_) co_await commit_->part_from_base();
  if (commit_) commit_->hand_over();
  if (options_.access) options_.access->drop_bitmaps(*replaced);         // filters above it are on the target by now
  bitmaps_stay.unlock();
  // So that both are let go of with it.
  const Result<> kept = top().file().retarget(source);
  TM_ASSERT(kept.ok());
  if (options_.access && commit_) co_await forget_bitmaps(*replaced, target_still);
}

// Guests wait for that, but not for ever.
Task<> MirrorJob::forget_bitmaps(BlockNode& from, std::optional<Graph::DrainGuard>& still) {
  Reactor& reactor = options_.source->reactor();
  CancelSource done;
  const auto forget = [&]() -> Task<> {
    (void)co_await options_.access->forget_bitmaps(from).result();
    done.request();
  };
  const auto in_time = [&](TaskGroup& group) -> Task<> {
    group.spawn(forget());
    if (!done.requested()) (void)co_await reactor.sleep(still_max, done.token()).result();
    still.reset();
    co_await group.join();
  };
  co_await with_group(reactor, in_time);
}

// Guests have left what is below from here on, so that nobody writes to it any more.
Result<> MirrorJob::put_onto(BlockNode& below) {
  const auto set = graph().set_backing(*options_.target, &below);
  if (set) return {};
  const Result<> back = graph().replace(*options_.target, below);
  TM_ASSERT(back.ok());                          // its users fit where they came from
  return set.error();
}

// Instead of a pivot: what guests write from here on stays in the top.
Task<> MirrorJob::stay_on_top() {
  co_await commit_->take_out_layers();
  co_await commit_->part_from_base();
  top().exclude_writes();
  still_.reset();
  co_await commit_->give_up(top(), *edge_);
}

// Does most of what the pivot does of that again, and fails if it cannot be done.  False: there is nothing to do.
//
// A write that was under way, and is not marked before it ends, would be lost with what is given up: so the disk is held still
// for a moment first, and what is flushed then stays as it is in the base meanwhile.
Task<bool> MirrorJob::give_up_early(JobContext& context) {
  if (gave_up_ || !commit_ || ending_ != Ending::pivot || !commit_->gives_up_early()) co_return false;
  {
    const auto still = co_await graph().drain_within(*options_.source, still_max).result();
    if (!still) co_return false;
    top().exclude_writes();
  }
  const Point::Outcome failed = co_await flush_target();
  const bool in_base = !failed && durable_;
  const auto enough = [&context] { return context.interrupted(); };
  if (in_base) (void)co_await commit_->give_up(top(), *edge_, enough).result();
  top().exclude_writes(false);
  gave_up_ = in_base && !context.interrupted();
  co_return true;
}

Task<> MirrorJob::press_target(CancelToken token) {
  for (;;) {                                     // the job's end may make new requests, a flush for one
    co_await options_.source->reactor().sleep(target_patience, token);
    co_await graph().cancel_in_flight(*options_.target);
  }
}

// A command waits for the end.
Task<> MirrorJob::press_target_from(Instant moment, CancelToken token) {
  co_await options_.source->reactor().sleep(moment - options_.source->reactor().now(), token);
  co_await press_target(token);
}

// A target that does not answer is not waited for once nobody wants it.
Task<> MirrorJob::give_up_target(CancelToken token) {
  co_await given_up_.wait(token);
  co_await press_target(token);
}

// What the target does not have, at a moment from which on it is left alone.
Task<> MirrorJob::save_unfinished() {
  if (!frozen_ || options_.bitmap.mode != BitmapMode::always) co_return;
  std::optional<DirtyBitmap> unfinished;
  {
    const auto still = co_await graph().drain(*options_.source);
    unfinished.emplace(top().dirty().clone());
    bitmap_->refreeze();
    top().retire();
  }
  const Result<bool> target = co_await top().flush_target().result();
  const InFlight under_way(*options_.source);
  const Result<> source = co_await top().file().flush().result();
  if (target && *target && source && check_nothing_lost(*filter_node_)) unfinished_ = std::move(unfinished);
}

Task<> MirrorJob::take_out_filter() {
  edge_.reset();
  if (commit_ && filter_node_->parents().empty()) commit_->let_go_of_layers();
  if (filter_node_->parents().empty()) co_return;
  top().retire();
  BlockNode& below = below_filter();
  const auto held = hold_filter(*filter_node_);
  const auto come_to_rest = [&](TaskGroup& group) -> Task<> {
    if (!commit_) group.spawn(press_target(group.token()));
    still_.emplace(co_await patient_drain(below));
  };
  if (!still_) co_await with_group(options_.source->reactor(), come_to_rest);
  if (commit_) commit_->let_go_of_layers();
  const Result<> removed = graph().replace(*filter_node_, below);
  TM_ASSERT(removed.ok());                       // its users fit where they came from
}

// Also of one that was never attached, or not wholly.
Task<> MirrorJob::clean() {
  abort();
  door_->job = nullptr;
  // When that fails the store has more bits than memory, which does no harm, and says so itself.
  NodeTracking* tracking = filter_node_ ? options_.source->tracking() : nullptr;
  if (std::exchange(save_, false) && tracking) (void)co_await tracking->save().result();
  if (filter_node_ && commit_) {
    top().retire();
    still_.reset();                              // guests go on meanwhile, where they are
  }
  if (commit_) co_await commit_->end_preserving();
  if (filter_node_) co_await take_out_filter();
  still_.reset();
  copy_.reset();
  filter_ = nullptr;
  if (BlockNode* filter = std::exchange(filter_node_, nullptr)) (void)co_await filter->graph().release(*filter).result();
  if (commit_) co_await commit_->close_base();
  co_await let_go(base_);
  co_await let_go(replaced_);
}

Task<> MirrorJob::let_go(std::unique_ptr<Edge>& held) {
  if (!held) co_return;
  BlockNode& node = held->node();
  held.reset();
  (void)co_await node.graph().release(node).result();
}

}  // namespace tidemark
