// GuestPace: when a copier may read a disk that guests are at work on.
//
// While they are it reads for a third of the time only, one piece after the other: a guest's requests would have to
// queue behind many large ones.
#pragma once

#include "filter/point.hpp"
#include "io/reactor.hpp"
#include "task/sync.hpp"

namespace tidemark {

class GuestPace {
 public:
  // The requests of guests are those of `through`'s node, which a reading is in flight in for drain.
  GuestPace(Reactor& reactor, Edge& through) : reactor_(reactor), through_(through), turn_(reactor) {}

  // Waits while the node is drained.
  Task<std::unique_ptr<Point::Reading>> enter();
  // The same without regard to guests.
  Task<std::unique_ptr<Point::Reading>> enter_at_once();
  // The most that a guest at work should have to wait behind; no limit when none is.
  std::uint64_t piece_max() const noexcept;
  bool guests_at_work() noexcept;

 private:
  class Turn;

  Reactor& reactor_;
  Edge& through_;
  Mutex turn_;
  Instant next_turn_{};
  std::uint64_t guest_requests_ = 0;
  Instant guests_until_{};
};

}  // namespace tidemark
