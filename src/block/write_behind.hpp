// WriteBehind: what a copier writes through the host's page cache begins to become durable while it goes on copying.  Else
// the kernel keeps it until the flush at the end, which then takes as long as the copying did, with the device busy all the
// while.  Where guests write, too, their pages go with it, again and again: so the steps are longer there.  Where nobody
// reads the target soon, as of a backup, the memory is for the next piece: the page cache keeps what guests have in it.
#pragma once

#include "block/edge.hpp"

namespace tidemark {

class WriteBehind {
 public:
  static constexpr std::uint64_t step = 8 * MiB, step_beside_guests = 64 * MiB;

  // The edge, which outlives this, is the one that is written to, or one above it.
  WriteBehind(Edge& target, PageCache after, std::uint64_t each = step) noexcept : target_(target), after_(after), step_(each) {}

  // So much more was written.  For one of the callers now and then it takes a moment.
  Task<> wrote(std::uint64_t bytes) {
    waiting_ += bytes;
    if (waiting_ < step_ || starting_) co_return;
    waiting_ = 0;
    starting_ = true;
    co_await target_.write_back(after_);
    starting_ = false;
  }

 private:
  Edge& target_;
  const PageCache after_;
  const std::uint64_t step_;
  std::uint64_t waiting_ = 0;
  bool starting_ = false;
};

}  // namespace tidemark
