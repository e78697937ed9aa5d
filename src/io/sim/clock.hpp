// SimClock: virtual time and what is to happen at which moment of it.  Time stands still while code
// runs and is moved by the world.  Events of one moment fire in the order they were made.
#pragma once

#include <functional>
#include <map>

#include "base/random.hpp"
#include "io/backend.hpp"

namespace tidemark {

class SimClock {
 public:
  explicit SimClock(std::int64_t wall_start_ns) : wall_start_ns_(wall_start_ns) {}

  Instant now() const noexcept { return now_; }
  std::int64_t wall_ns() const noexcept { return wall_start_ns_ + now_.count(); }

  void at(Instant when, std::function<void()> event) {
    events_.emplace(std::pair(when, ++made_), std::move(event));
  }
  Instant next_event() const noexcept {
    return events_.empty() ? no_deadline : events_.begin()->first.first;
  }
  void advance_to(Instant when) noexcept { now_ = std::max(now_, when); }
  void fire_due() {
    while (next_event() <= now_) events_.extract(events_.begin()).mapped()();
  }

 private:
  std::int64_t wall_start_ns_;
  Instant now_{0};
  std::uint64_t made_ = 0;
  std::map<std::pair<Instant, std::uint64_t>, std::function<void()>> events_;
};

// Uniform between the two; now and then ten times as long.
inline Duration sim_latency(Prng& prng, Duration min, Duration max) {
  const auto spread = static_cast<std::uint64_t>((max - min).count()) + 1;
  const Duration latency = min + Duration(static_cast<std::int64_t>(prng.below(spread)));
  return prng.chance(1, 32) ? latency * 10 : latency;
}

}  // namespace tidemark
