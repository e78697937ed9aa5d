// SimLocks: byte-range locks of open file descriptions on one file, as F_OFD_SETLK has them.
#pragma once

#include <algorithm>
#include <vector>

#include "io/op.hpp"

namespace tidemark {

class SimLocks {
 public:
  // 0, or -EAGAIN when another owner's lock is in the way.
  int request(std::uint64_t owner, const LockRequest& request);
  void drop(std::uint64_t owner) {
    std::erase_if(held_, [&](const Held& held) { return held.owner == owner; });
  }

 private:
  struct Held {
    std::uint64_t owner;
    Range range;
    bool exclusive;
  };
  bool blocked(std::uint64_t owner, Range range, bool exclusive) const;
  void release(std::uint64_t owner, Range range);

  std::vector<Held> held_;
};

}  // namespace tidemark
