// WriteBehind: what a copier writes through the host's page cache begins to become durable while it goes on copying.  Else
// the kernel keeps it until the flush at the end, which then takes as long as the copying did, with the device busy all the
// while.  For targets that only copiers write to: the pages of guests would be written with them, again and again.  Where nobody
// reads the target soon, as of a backup, the memory is for the next piece: the page cache keeps what guests have in it.
#pragma once

#include "block/edge.hpp"

namespace tidemark {

class WriteBehind {
 public:
  // The edge, which outlives this, is the one that is written to, or one above it.
  WriteBehind(Edge& target, PageCache after) noexcept : target_(target), after_(after) {}

  // So much more was written.  For one of the callers now and then it takes a moment.
  Task<> wrote(std::uint64_t bytes) {
    waiting_ += bytes;
    if (waiting_ < step || starting_) co_return;
    waiting_ = 0;
    starting_ = true;
    co_await target_.write_back(after_);
    starting_ = false;
  }

 private:
  static constexpr std::uint64_t step = 8 * MiB;

  Edge& target_;
  const PageCache after_;
  std::uint64_t waiting_ = 0;
  bool starting_ = false;
};

}  // namespace tidemark
