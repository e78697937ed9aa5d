// BusyWait: whether a reactor looks for its next event for a while before it sleeps.
//
// Falling asleep and being woken costs more than most answers of a guest or of a fast disk take, on a
// virtual machine far more.  While events follow one another closely, the reactor looks for the next
// one; where they are further apart than `longest` it sleeps at once, so an idle one costs nothing.
// Looking in vain though the event was near means that who makes it needs this processor: then the
// next waits sleep, twice as many each time.
#pragma once

#include <algorithm>

#include "io/backend.hpp"

namespace tidemark::posix {

class BusyWait {
 public:
  explicit BusyWait(Duration longest) : longest_(longest) {}      // zero: never looks

  void set_longest(Duration longest) noexcept { longest_ = longest; }

  // For how long to look now; zero: sleep.
  Duration window() const noexcept { return near_ && to_sleep_ == 0 ? longest_ : Duration::zero(); }

  // A wait has ended: what it took in all, and whether looking (if any) found the event.
  void found() noexcept { penalty_ = std::max(penalty_ / 2, penalty_min); }
  void slept(Duration took, bool looked) noexcept {
    if (looked) {
      to_sleep_ = penalty_;
      penalty_ = std::min(2 * penalty_, penalty_max);
    } else {
      near_ = took <= longest_;
      if (to_sleep_ != 0) --to_sleep_;
    }
  }

 private:
  static constexpr unsigned penalty_min = 4, penalty_max = 4096;
  Duration longest_;
  bool near_ = false;
  unsigned to_sleep_ = 0;              // so many waits yet without looking
  unsigned penalty_ = penalty_min;
};

}  // namespace tidemark::posix
