// ExtentPins: who may still be reading or writing an extent that was just taken out of the map.
//
// Who moves bytes by what the map said pins the epoch in which it asked.  Storage that a change of the map
// set free may be used again once the epoch of that change, closed, has ended: then nobody who saw the old
// map is in flight.
#pragma once

#include <cstdint>
#include <deque>

#include "base/assert.hpp"

namespace tidemark {

class ExtentPins {
 public:
  using Epoch = std::uint64_t;

  class [[nodiscard]] Guard {
   public:
    explicit Guard(ExtentPins& pins) noexcept : pins_(pins), epoch_(pins.enter()) {}
    Guard(const Guard&) = delete;
    ~Guard() { pins_.leave(epoch_); }

   private:
    ExtentPins& pins_;
    Epoch epoch_;
  };

  ExtentPins() = default;
  ExtentPins(const ExtentPins&) = delete;

  // Ends the present epoch and begins the next; answers the one ended.
  Epoch close_epoch() {
    in_flight_.push_back(0);
    trim();
    return first_ + in_flight_.size() - 2;
  }
  // Nothing that began in this epoch or before it is in flight.
  bool ended(Epoch epoch) const noexcept { return epoch < first_; }

 private:
  Epoch enter() noexcept {
    ++in_flight_.back();
    return first_ + in_flight_.size() - 1;
  }
  void leave(Epoch epoch) noexcept {
    TM_ASSERT(in_flight_[epoch - first_] != 0);
    if (--in_flight_[epoch - first_] == 0) trim();
  }
  void trim() noexcept {
    while (in_flight_.size() > 1 && in_flight_.front() == 0) {
      in_flight_.pop_front();
      ++first_;
    }
  }

  Epoch first_ = 0;
  std::deque<std::uint32_t> in_flight_{0};       // of each epoch from first_ on; the last is the present
};

}  // namespace tidemark
