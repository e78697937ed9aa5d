#include "io/sim/locks.hpp"

#include <cerrno>

namespace tidemark {

bool SimLocks::blocked(std::uint64_t owner, Range range, bool exclusive) const {
  return std::ranges::any_of(held_, [&](const Held& held) {
    return held.owner != owner && held.range.overlaps(range) && (exclusive || held.exclusive);
  });
}

void SimLocks::release(std::uint64_t owner, Range range) {
  std::vector<Held> kept;
  for (const Held& held : held_) {
    if (held.owner != owner || !held.range.overlaps(range)) {
      kept.push_back(held);
      continue;
    }
    const Range before{held.range.offset, range.offset - held.range.offset};
    const Range after{range.end(), held.range.end() - range.end()};
    if (held.range.offset < range.offset) kept.push_back({owner, before, held.exclusive});
    if (held.range.end() > range.end()) kept.push_back({owner, after, held.exclusive});
  }
  held_ = std::move(kept);
}

int SimLocks::request(std::uint64_t owner, const LockRequest& request) {
  using Mode = LockRequest::Mode;
  if (request.offset > max_disk_size) return -EINVAL;
  const std::uint64_t rest = max_disk_size - request.offset;     // length 0: to the end, however far
  if (request.length > rest) return -EINVAL;
  const Range range{request.offset, request.length ? request.length : rest};
  const bool exclusive = request.mode == Mode::exclusive || request.mode == Mode::test_exclusive;
  if (request.mode != Mode::unlock && blocked(owner, range, exclusive)) return -EAGAIN;
  if (request.mode == Mode::test_exclusive) return 0;
  release(owner, range);
  if (request.mode != Mode::unlock) held_.push_back({owner, range, exclusive});
  return 0;
}

}  // namespace tidemark
