// Holds: the ranges of a disk whose content of a past moment somebody is reading.
//
// Whoever reads the old content takes a hold for the time of the read; holds do not conflict with
// each other.  Who is about to change a range waits until no hold overlaps it, and for nothing
// else.
#pragma once

#include <list>

#include "base/units.hpp"
#include "task/sync.hpp"

namespace tidemark {

// One thread.  Holds end before this does.
class Holds {
 public:
  class [[nodiscard]] Hold {
   public:
    Hold(Hold&& o) noexcept : holds_(std::exchange(o.holds_, nullptr)), place_(o.place_) {}
    Hold& operator=(Hold&&) = delete;
    ~Hold() {
      if (holds_) holds_->release(place_);
    }
    Range range() const noexcept { return *place_; }
    // Lets go of all but the first `length` bytes.
    void shrink(std::uint64_t length) noexcept;

   private:
    friend class Holds;
    Hold(Holds& holds, std::list<Range>::iterator place) : holds_(&holds), place_(place) {}
    Holds* holds_;
    std::list<Range>::iterator place_;
  };

  explicit Holds(Executor& executor) : released_(executor) {}
  ~Holds() { TM_ASSERT(held_.empty()); }

  Hold hold(Range range) { return Hold(*this, held_.insert(held_.end(), range)); }
  bool any(Range range) const noexcept;
  bool idle() const noexcept { return held_.empty(); }
  const std::list<Range>& all() const noexcept { return held_; }
  // Until some hold has been let go of, wholly or in part, or look_again(); then look again.
  WaitQueue::Wait wait() { return released_.wait(); }
  // For those who wait for more than holds.
  void look_again() noexcept { released_.wake_all(); }

 private:
  void release(std::list<Range>::iterator place) noexcept {
    held_.erase(place);
    released_.wake_all();
  }

  std::list<Range> held_;
  WaitQueue released_;
};

}  // namespace tidemark
