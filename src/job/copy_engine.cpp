#include "job/copy_engine.hpp"

#include <algorithm>

#include "io/aligned.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t workers_max = 16;  // more only spoil the processor's caches
constexpr Duration guest_rest = std::chrono::milliseconds(50);  // then it is not at work any more
constexpr Duration pause_max = std::chrono::milliseconds(100);
// What guests at work have to wait behind, and how long the device is theirs after it.
constexpr std::uint64_t piece_among_guests = 512 * KiB;
constexpr auto rest_after(Duration read) { return read * 5 / 4; }
constexpr Duration retry_delay = std::chrono::milliseconds(100);

}  // namespace

// The only one to read, for a while; the next one waits somewhat longer than it took.
class CopyEngine::Turn final : public Point::Reading {
 public:
  Turn(CopyEngine& engine, Mutex::Guard turn, InFlight in_flight)
      : Reading(std::move(in_flight)), engine_(engine), turn_(std::move(turn)), began_(engine.reactor_.now()) {}
  ~Turn() override {
    const Instant now = engine_.reactor_.now();
    engine_.next_turn_ = now + std::min<Duration>(rest_after(now - began_), pause_max);
  }

 private:
  CopyEngine& engine_;
  Mutex::Guard turn_;
  const Instant began_;
};

CopyEngine::CopyEngine(Reactor& reactor, Point& point, Edge& through, CopyLimits limits)
    : reactor_(reactor), point_(point), through_(through), limits_(limits), turn_(reactor) {
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
  std::unique_ptr<Point::Reading> reading = co_await read_in_turn();
  const bool pressed = point_.stage() && point_.stage()->presses();
  const auto staged = pressed ? next_staged() : std::nullopt;
  const std::uint64_t from = staged ? *staged : point_.next_todo(position_).value_or(0);
  stride.window_max = speed == 0 ? Point::Stride{}.window_max : chunk;
  const bool among_guests = reactor_.now() < guests_until_;
  const std::uint64_t most = among_guests ? std::max(piece_among_guests, point_.granule()) : chunk;
  const std::size_t usable = std::min<std::uint64_t>({buffer.size(), chunk, most});
  const Range rest{from, point_.size() - from};
  Point::Outcome failed =
      co_await point_.copy_some(rest, stride, buffer.first(usable), std::move(reading));
  if (speed != 0) context.refund(chunk - std::min(chunk, stride.done));
  if (failure_) co_return;
  if (!staged) position_ = failed ? from + point_.granule() : from;
  failure_ = std::move(failed);
}

bool CopyEngine::guests_at_work() noexcept {
  const BlockStats& stats = through_.node().stats();
  const std::uint64_t requests = stats.read.operations + stats.write.operations +
                                 stats.write_zeroes.operations + stats.discard.operations;
  const Instant now = reactor_.now();
  if (std::exchange(guest_requests_, requests) != requests) guests_until_ = now + guest_rest;
  return now < guests_until_;
}

Task<std::unique_ptr<Point::Reading>> CopyEngine::read_in_turn() {
  // Without a stage writing the target is part of the turn, which may take long.
  if (!point_.stage() || !guests_at_work())
    co_return std::make_unique<Point::Reading>(co_await through_.enter());
  Mutex::Guard turn = co_await turn_.lock();
  if (reactor_.now() < next_turn_) co_await reactor_.sleep_until(next_turn_);
  InFlight in_flight = co_await through_.enter();
  co_return std::make_unique<Turn>(*this, std::move(turn), std::move(in_flight));
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
