#include "job/copy_engine.hpp"

#include <algorithm>

#include "io/aligned.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t workers_max = 16;  // more only spoil the processor's caches
constexpr Duration retry_delay = std::chrono::milliseconds(100);

}  // namespace

CopyEngine::CopyEngine(Reactor& reactor, Point& point, Edge& through, Edge& target, CopyLimits limits)
    : reactor_(reactor), point_(point), through_(through), limits_(limits), pace_(reactor, through), behind_(target, PageCache::drop) {
  const std::uint64_t wanted = limits_.chunk ? limits_.chunk : point.buffer_size();
  const std::uint64_t chunk = align_down(std::min(wanted, point.buffer_size()), point.granule());
  limits_.chunk = std::max(chunk, point.granule());
  limits_.workers = std::min(limits_.workers, workers_max);
}

// A tenth of a second's worth, so that a slow copy still moves steadily.
std::uint64_t CopyEngine::chunk_for(std::uint64_t speed) const noexcept {
  if (speed == 0) return limits_.chunk;
  return std::clamp(align_down(speed / 10, point_.granule()), point_.granule(), limits_.chunk);
}

Task<Point::Outcome> CopyEngine::run(JobContext& context) {
  failure_.reset();
  const auto body = [&](TaskGroup& group) -> Task<> {
    const std::uint64_t pieces = div_up(point_.todo().dirty_bytes(), chunk_for(context.speed()));
    const std::uint64_t workers = std::min(limits_.workers, pieces);
    for (std::uint64_t i = 0; i < workers; ++i) group.spawn(work(context));
    co_await group.join();
  };
  co_await with_group(reactor_, body);
  co_return failure_;
}

Task<> CopyEngine::work(JobContext& context) {
  AlignedBuffer buffer(std::min(limits_.chunk, point_.buffer_size()));
  Point::Stride stride;
  while (!failure_ && !point_.broken() && !context.interrupted() && !point_.todo().empty()) {
    co_await copy_piece(context, stride, buffer.bytes());
    co_await reactor_.yield();  // a guest's requests get their turn
  }
}

Task<> CopyEngine::copy_piece(JobContext& context, Point::Stride& stride, MutableBytes buffer) {
  const std::uint64_t speed = context.speed();
  const std::uint64_t chunk = chunk_for(speed);
  if (speed != 0) co_await context.charge(chunk);
  if (context.interrupted() || failure_) co_return context.refund(chunk);
  std::unique_ptr<Point::Reading> reading = co_await enter();
  const bool pressed = point_.stage() && point_.stage()->presses();
  const auto staged = pressed ? next_staged() : std::nullopt;
  const std::uint64_t from = staged ? *staged : point_.next_todo(position_).value_or(0);
  stride.window_max = speed == 0 ? Point::Stride{}.window_max : chunk;
  const std::uint64_t most = std::max(pace_.piece_max(), point_.granule());
  const std::size_t usable = std::min<std::uint64_t>({buffer.size(), chunk, most});
  const Range rest{from, point_.size() - from};
  Point::Outcome failed =
      co_await point_.copy_some(rest, stride, buffer.first(usable), std::move(reading));
  if (speed != 0) context.refund(chunk - std::min(chunk, stride.done));
  co_await behind_.wrote(std::min<std::uint64_t>(stride.done, usable));
  if (failure_) co_return;
  if (!staged) position_ = failed ? from + point_.granule() : from;
  failure_ = std::move(failed);
}

// Without a stage writing the target is part of the turn, which may take long.
Task<std::unique_ptr<Point::Reading>> CopyEngine::enter() {
  return point_.stage() ? pace_.enter() : pace_.enter_at_once();
}

std::optional<std::uint64_t> CopyEngine::next_staged() noexcept {
  auto found = point_.next_staged(staged_position_);
  if (!found) found = point_.next_staged(0);
  if (found) staged_position_ = *found + point_.granule();
  return found;
}

Task<> CopyEngine::relieve(CancelToken token) {
  Stage& stage = *point_.stage();
  AlignedBuffer buffer(point_.granule());
  while (!token.requested()) {
    const auto staged = stage.throttles() ? next_staged() : std::nullopt;
    if (!staged) {
      co_await stage.wait_until_throttles(token);
      continue;
    }
    Point::Stride stride;
    const Range granule{*staged, std::min(point_.granule(), point_.size() - *staged)};
    auto reading = std::make_unique<Point::Reading>(InFlight(through_.node()));
    const Point::Outcome failed =
        co_await point_.copy_some(granule, stride, buffer.bytes(), std::move(reading));
    if (failed) co_await reactor_.sleep(retry_delay, token);
  }
}

}  // namespace tidemark
