// ThrottleGroup: limits on the rate of requests, shared by nodes that may be on different threads.
//
// Leaky buckets (QEMU's docs/throttle.txt): a request may begin while its buckets are not full, and fills them by what it is.  A
// bucket is one number, the moment at which it will be empty, so all threads can charge it without a lock.
// set() and limits() are the main thread's; charge() is anybody's.
#pragma once

#include <array>
#include <atomic>

#include "base/error.hpp"
#include "io/backend.hpp"

namespace tidemark {

struct ThrottleLimits {
  enum Kind : std::size_t { bps_total, bps_read, bps_write, iops_total, iops_read, iops_write };
  static constexpr std::size_t kinds = 6;
  struct Limit {
    std::int64_t average = 0;         // a second; 0: no limit
    std::int64_t max = 0;             // a second, in bursts; 0: none
    std::int64_t length = 1;          // seconds that a burst may take
  };
  std::array<Limit, kinds> of;
  std::int64_t iops_size = 0;         // bytes that count as one operation; 0: any number does
};

// Messages are QEMU's.
Result<> check_limits(const ThrottleLimits& limits);

class ThrottleGroup {
 public:
  void set(const ThrottleLimits& limits) noexcept;
  const ThrottleLimits& limits() const noexcept { return limits_; }

  // How long a request has to wait before it may try again; zero: it may begin, and is charged.
  Duration charge(bool is_write, std::uint64_t bytes, Instant now) noexcept;

 private:
  struct Bucket {
    std::atomic<double> rate{0}, volume{0};      // units a second, that leak; units that it holds
    std::atomic<std::int64_t> empty_at{0};
    std::int64_t wait(std::int64_t now) const noexcept;
    void fill(double units, std::int64_t now) noexcept;
  };
  struct Pair {
    Bucket bucket, burst;
  };
  std::array<Pair, ThrottleLimits::kinds> buckets_;
  std::atomic<std::int64_t> iops_size_{0};
  ThrottleLimits limits_;
};

}  // namespace tidemark
