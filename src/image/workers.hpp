// What long operations on images share: workers side by side, progress, a pace, and being interrupted.
#pragma once

#include <functional>

#include "io/reactor.hpp"
#include "task/group.hpp"

namespace tidemark::image {

struct Course {
  std::uint64_t workers = 16;              // pieces in flight
  std::uint64_t speed = 0;                 // bytes a second; 0: as fast as it goes
  std::function<void(std::uint64_t done)> progress;      // bytes of the disk
  CancelToken interrupted;
};

// One operation under way.
class Running {
 public:
  Running(Reactor& reactor, const Course& course) : reactor_(reactor), course_(course), started_(reactor.now()) {}

  Result<> going_on(CancelToken stop) const {
    if (stop.requested() || course_.interrupted.requested()) return Error(Errc::cancelled, "interrupted");
    return {};
  }
  void advance(std::uint64_t bytes) {
    done_ += bytes;
    if (course_.progress) course_.progress(done_);
  }
  // Before so many bytes are moved.
  Task<> keep_pace(std::uint64_t bytes) {
    if (course_.speed == 0) co_return;
    const auto due = std::chrono::duration<double>(static_cast<double>(moved_) / static_cast<double>(course_.speed));
    moved_ += bytes;
    co_await reactor_.sleep_until(started_ + std::chrono::duration_cast<Duration>(due), course_.interrupted);
  }

 private:
  Reactor& reactor_;
  const Course& course_;
  const Instant started_;
  std::uint64_t done_ = 0, moved_ = 0;
};

// work(token) so many times side by side; the first error ends the others.
template <class Work>
Task<> side_by_side(Reactor& reactor, std::uint64_t workers, Work work) {
  auto body = [&](TaskGroup& group) -> Task<> {
    for (std::uint64_t i = 0; i < workers; ++i) group.spawn(work(group.token()));
    co_await group.join();
  };
  co_await with_group(reactor, body);
}

}  // namespace tidemark::image
