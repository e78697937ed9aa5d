#include "job/mirror/mirror_copy.hpp"

#include <algorithm>

#include "block/status.hpp"
#include "filter/disk_filters.hpp"
#include "io/aligned.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t chunk_default = 1 * MiB;
constexpr std::uint64_t buffers_default = 16 * MiB;
constexpr std::uint64_t workers_max = 16;        // more only spoil the processor's caches
constexpr std::uint64_t look_max = 1 * GiB;      // for zeroes and what is not allocated
constexpr std::uint64_t look_max_active = 8 * MiB;   // while guests would have to wait for it
constexpr Duration judge_every = std::chrono::milliseconds(100);

// Not one that another program keeps, which is far away as a rule.
bool is_local(const BlockNode& node) {
  for (const Edge* edge : node.driver().edges())
    if (edge->role() != Role::backing) return is_local(edge->node());
  return node.driver().flush_at_close();
}

}  // namespace

// What has been cleaned and is not copied yet: dirty again when this ends.
class MirrorCopy::Piece {
 public:
  Piece(MirrorCopy& copy, Range range) : copy_(copy), range_(range), unsettled_(copy.top_) {
    copy_.claimed_ += range_.length;
    copy_.top_.dirty().clear(range_);
  }
  Piece(const Piece&) = delete;
  ~Piece() { give_back(0); }

  Range range() const noexcept { return range_; }
  void shrink(std::uint64_t length) { give_back(length); }
  void done(bool counts) noexcept {
    copy_.claimed_ -= range_.length;
    if (counts) copy_.copied_ += range_.length;
    range_.length = 0;
  }

 private:
  void give_back(std::uint64_t from) {
    if (from == range_.length) return;
    const Range rest{range_.offset + from, range_.length - from};
    copy_.claimed_ -= rest.length;
    copy_.top_.dirty().set(rest);
    range_.length = from;
  }

  MirrorCopy& copy_;
  Range range_;
  MirrorTop::Unsettled unsettled_;
};

// Granules that are in one worker's hands.
class MirrorCopy::Reservation {
 public:
  Reservation(MirrorCopy& copy, Range area) : copy_(copy), place_(copy.reserved_.insert(copy.reserved_.end(), area)) {}
  Reservation(const Reservation&) = delete;
  ~Reservation() {
    copy_.reserved_.erase(place_);
    copy_.piece_ended_.wake_all();
  }

 private:
  MirrorCopy& copy_;
  std::list<Range>::iterator place_;
};

MirrorCopy::MirrorCopy(Reactor& reactor, MirrorTop& top, Edge& through, MirrorCopyOptions options)
    : reactor_(reactor),
      top_(top),
      through_(through),
      options_(options),
      sink_(top.target(), {granule(), false, nullptr, top.unmaps(), false, top.backing_later()}),
      pace_(reactor, through),
      behind_(top.target(), PageCache::keep),       // a guest is to read it
      shares_device_(is_local(top.target().node())),
      piece_ended_(reactor) {
  const std::uint64_t buffers = options.buffers ? options.buffers : buffers_default;
  chunk_ = std::max(align_down(std::min(chunk_default, buffers), granule()), granule());
  workers_ = std::clamp<std::uint64_t>(buffers / chunk_, 1, workers_max);
}

JobProgress MirrorCopy::progress() const noexcept {
  const std::uint64_t done = copied_ + top_.bytes_to_both();
  return {done, done + claimed_ + top_.dirty().dirty_bytes()};
}

// A tenth of a second's worth, so that a slow copy still moves steadily.
std::uint64_t MirrorCopy::chunk_for(std::uint64_t speed) const noexcept {
  if (speed == 0) return chunk_;
  return std::clamp(align_down(speed / 10, granule()), granule(), chunk_);
}

Task<MirrorCopy::Outcome> MirrorCopy::run(JobContext& context, std::function<bool()> enough) {
  const Manner manner{&context, false, [&] { return !context.interrupted() && !enough(); }};
  co_return co_await run_workers(manner);
}

Task<MirrorCopy::Outcome> MirrorCopy::run_drained(CancelToken token) {
  const Manner manner{nullptr, true, [token] { return !token.requested(); }};
  co_return co_await run_workers(manner);
}

Task<MirrorCopy::Outcome> MirrorCopy::run_to_end(std::function<bool()> enough) {
  const Manner manner{nullptr, false, [&] { return !enough(); }};
  co_return co_await run_workers(manner);
}

Task<MirrorCopy::Outcome> MirrorCopy::run_workers(const Manner& manner) {
  failure_.reset();
  working_ = 0;
  const auto body = [&](TaskGroup& group) -> Task<> {
    call_another(group, manner);
    co_await group.join();
  };
  co_await with_group(reactor_, body);
  co_return failure_;
}

// While there is work for more.
void MirrorCopy::call_another(TaskGroup& group, const Manner& manner) {
  const std::uint64_t share = first_pass_ ? chunk_for(manner.context ? manner.context->speed() : 0) : granule();
  if (working_ * share >= top_.dirty().dirty_bytes() || working_ >= side_by_side(manner)) return;
  ++working_;
  group.spawn(work(group, manner));
}

Task<> MirrorCopy::work(TaskGroup& group, const Manner& manner) {
  JobContext* const context = manner.context;
  AlignedBuffer buffer(chunk_);
  std::uint64_t window = chunk_;
  while (!failure_ && manner.going()) {
    const std::uint64_t speed = context ? context->speed() : 0;
    const std::uint64_t chunk = chunk_for(speed);
    if (speed != 0) co_await context->charge(chunk);
    const bool goes_on = !failure_ && manner.going();
    if (goes_on && reserved_.size() >= side_by_side(manner)) {
      if (speed != 0) context->refund(chunk);
      (void)co_await piece_ended_.wait();
      continue;
    }
    if (goes_on) call_another(group, manner);
    const auto area = goes_on ? next_area(std::max(window, chunk)) : std::nullopt;
    std::uint64_t moved = 0;
    if (area) moved = co_await copy_area(manner.drained, *area, window, buffer.bytes().first(chunk));
    if (speed != 0) context->refund(chunk - moved);
    if (moved != 0 && context) co_await behind_.wrote(moved);    // else guests wait
    if (!area && (!goes_on || reserved_.empty())) break;
    if (area) co_await reactor_.yield();         // a guest's requests get their turn
    else (void)co_await piece_ended_.wait();     // it may leave something behind
  }
  --working_;
}

// More when what is dirty does not become less, fewer when there is hardly anything.
std::uint64_t MirrorCopy::side_by_side(const Manner& manner) noexcept {
  if (first_pass_ || !manner.context || !pace_.guests_at_work()) return workers_;
  const Instant now = reactor_.now();
  if (now - judged_ < judge_every) return width_;
  const std::uint64_t left = top_.dirty().dirty_bytes();
  const bool gains = judged_ == Instant{} || left < left_before_ - left_before_ / 64;
  if (!gains && left > 4 * width_ * granule()) width_ = std::min(width_ * 2, workers_);
  else if (left < width_ * granule()) width_ = std::max<std::uint64_t>(width_ / 2, 1);
  left_before_ = left;
  judged_ = now;
  return width_;
}

std::optional<Range> MirrorCopy::next_area(std::uint64_t length_max) noexcept {
  const auto area = next_area(position_, length_max);
  if (area) return area;
  first_pass_ = false;
  return next_area(0, length_max);
}

// Its first granules, which are all touched or not.
Range MirrorCopy::alike(Range area) const noexcept {
  const DirtyBitmap& touched = top_.touched();
  const auto other = touched.test(area.offset) ? touched.next_clean(area.offset) : touched.next_dirty(area.offset);
  return {area.offset, std::min(area.end(), other.value_or(size())) - area.offset};
}

// The first that is dirty, in nobody's hands, and either touched or not.
std::optional<Range> MirrorCopy::next_area(std::uint64_t from, std::uint64_t length_max) const noexcept {
  while (auto area = top_.dirty().next_dirty_area(from, size(), align_up(length_max, granule()))) {
    area = alike(*area);
    const auto taken = std::find_if(reserved_.begin(), reserved_.end(), [&](Range r) { return r.overlaps(*area); });
    if (taken == reserved_.end()) return area;
    from = taken->end();
  }
  return std::nullopt;
}

Task<std::uint64_t> MirrorCopy::copy_area(bool drained, Range area, std::uint64_t& window,
                                          MutableBytes buffer) {
  const Reservation reserved(*this, area);
  position_ = area.end();
  std::unique_ptr<Point::Reading> reading;
  if (!drained && first_pass_) reading = co_await pace_.enter();
  else if (!drained) reading = co_await pace_.enter_at_once();
  else reading = std::make_unique<Point::Reading>(InFlight(through_.node()));
  co_return co_await copy_held(area, window, buffer, std::move(reading));
}

Task<std::uint64_t> MirrorCopy::copy_held(Range area, std::uint64_t& window, MutableBytes buffer,
                                          std::unique_ptr<Point::Reading> reading) {
  const InFlight writing(top_.target().node());
  auto alone = top_.locks().hold(area, RangeLock::Mode::exclusive);
  co_await alone;
  // Some of it may have been written to both meanwhile.
  auto left = top_.dirty().next_dirty_area(area.offset, area.end());
  if (!left) co_return 0;
  left = alike(*left);
  Piece piece(*this, *left);
  const std::uint64_t polite = first_pass_ ? std::max(pace_.piece_max(), granule()) : max_disk_size;
  const std::uint64_t data_max = std::min<std::uint64_t>(buffer.size(), polite);
  const auto seen = co_await look_at(*left, data_max).result();
  if (!seen) {
    fail(seen.error(), true);
    co_return 0;
  }
  const std::uint64_t window_max = top_.write_blocking() ? look_max_active : look_max;
  window = seen->to_move ? chunk_ : std::min(seen->range.length * 2, window_max);
  if (seen->range.end() < area.end()) position_ = seen->range.end();
  piece.shrink(seen->range.length);
  co_return co_await move(piece, *seen, buffer, std::move(reading));
}

Task<std::uint64_t> MirrorCopy::move(Piece& piece, const Stretch& stretch, MutableBytes buffer,
                                     std::unique_ptr<Point::Reading> reading) {
  const Range range = stretch.range;
  const Buffers data = stretch.to_move ? Buffers(buffer.first(range.length)) : Buffers();
  Result<> done;
  if (stretch.to_move) done = co_await past_filters(top_.file()).read(range.offset, data).result();
  if (shares_device_) reading->end();
  else reading.reset();
  if (!done) {
    fail(done.error(), true);
    co_return 0;
  }
  if (stretch.to_write) {
    top_.touch(range);
    Task<> writing = stretch.to_move ? sink_.keep(range.offset, data) : sink_.keep_zeroes(range);
    done = co_await std::move(writing).result();
  }
  if (done) piece.done(stretch.counts);
  else fail(done.error(), false);
  co_return stretch.to_move ? range.length : 0;
}

// The first granules of a range that are all touched or not, as far as they are alike.
Task<MirrorCopy::Stretch> MirrorCopy::look_at(Range range, std::uint64_t data_max) {
  const bool touched = top_.touched().test(range.offset);
  BlockNode& layer = skip_filters(top_.file().node());
  // What is not above a target that is below the source, it shows itself.
  const bool above_target = options_.copied == Copied::above_target;
  const bool top_only = above_target || (options_.copied == Copied::top_layer && !touched);
  BlockNode* const below = above_target ? &top_.target().node() : top_only ? options_.base : nullptr;
  const BlockStatus status = co_await block_status_above(layer, below, range);
  const std::uint64_t alike =
      status.range.length == range.length ? range.length : align_down(status.range.length, granule());
  const bool left_out = top_only && !status.allocated;
  Stretch stretch;
  if (alike != 0 && (left_out || status.zero)) {
    stretch.range = {range.offset, alike};
    stretch.to_move = false;
    stretch.to_write = !left_out && (touched || !options_.target_is_zero);
    stretch.counts = status.allocated || touched;
  } else {
    const std::uint64_t length = align_up(std::min(status.range.length, data_max), granule());
    stretch.range = {range.offset, std::min(length, range.length)};
  }
  co_return stretch;
}

}  // namespace tidemark
