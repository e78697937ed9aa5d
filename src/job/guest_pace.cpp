#include "job/guest_pace.hpp"

#include <algorithm>

#include "block/node.hpp"

namespace tidemark {
namespace {

constexpr Duration guest_rest = std::chrono::milliseconds(50);  // then it is not at work any more
constexpr Duration pause_max = std::chrono::milliseconds(100);
// What guests at work have to wait behind, and how long the device is theirs after it.
constexpr std::uint64_t piece_among_guests = 512 * KiB;
constexpr auto rest_after(Duration read) { return read * 5 / 4; }

}  // namespace

// The only one to read, for a while; the next one waits somewhat longer than it took.
class GuestPace::Turn final : public Point::Reading {
 public:
  Turn(GuestPace& pace, Mutex::Guard turn, InFlight in_flight)
      : Reading(std::move(in_flight)), pace_(pace), turn_(std::move(turn)), began_(pace.reactor_.now()) {}
  ~Turn() override {
    const Instant now = pace_.reactor_.now();
    pace_.next_turn_ = now + std::min<Duration>(rest_after(now - began_), pause_max);
  }

 private:
  GuestPace& pace_;
  Mutex::Guard turn_;
  const Instant began_;
};

bool GuestPace::guests_at_work() noexcept {
  const BlockStats& stats = through_.node().stats();
  const std::uint64_t requests = stats.read.operations + stats.write.operations +
                                 stats.write_zeroes.operations + stats.discard.operations;
  const Instant now = reactor_.now();
  if (std::exchange(guest_requests_, requests) != requests) guests_until_ = now + guest_rest;
  return now < guests_until_;
}

std::uint64_t GuestPace::piece_max() const noexcept {
  return reactor_.now() < guests_until_ ? piece_among_guests : max_disk_size;
}

Task<std::unique_ptr<Point::Reading>> GuestPace::enter_at_once() {
  co_return std::make_unique<Point::Reading>(co_await through_.enter());
}

Task<std::unique_ptr<Point::Reading>> GuestPace::enter() {
  if (!guests_at_work()) co_return co_await enter_at_once();
  Mutex::Guard turn = co_await turn_.lock();
  if (reactor_.now() < next_turn_) co_await reactor_.sleep_until(next_turn_);
  InFlight in_flight = co_await through_.enter();
  co_return std::make_unique<Turn>(*this, std::move(turn), std::move(in_flight));
}

}  // namespace tidemark
