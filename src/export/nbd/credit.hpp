// Credit: a part of what one client may keep in memory, held by a request until its reply is sent.
//
// Every request costs at least `request_min`, so the same number bounds how many there are.
#pragma once

#include <algorithm>
#include <utility>

#include "base/units.hpp"
#include "task/sync.hpp"

namespace tidemark {

class Credit {
 public:
  static constexpr std::uint64_t client_total = 32 * MiB;
  static constexpr std::uint64_t request_min = 128 * KiB;      // 256 requests

  Credit() = default;
  Credit(Credit&& o) noexcept : from_(std::exchange(o.from_, nullptr)), units_(o.units_) {}
  Credit& operator=(Credit&& o) noexcept {
    std::swap(from_, o.from_);
    std::swap(units_, o.units_);
    return *this;
  }
  ~Credit() {
    if (from_) from_->release(units_);
  }
  explicit operator bool() const noexcept { return from_ != nullptr; }

  // `data` is at most client_total.
  static Credit try_take(Semaphore& from, std::uint64_t data) {
    const std::uint64_t units = std::max(data, request_min);
    return from.try_acquire(units) ? Credit(from, units) : Credit();
  }
  static Task<Credit> take(Semaphore& from, std::uint64_t data, CancelToken token) {
    const std::uint64_t units = std::max(data, request_min);
    co_await from.acquire(units, token);
    co_return Credit(from, units);
  }

 private:
  Credit(Semaphore& from, std::uint64_t units) : from_(&from), units_(units) {}

  Semaphore* from_ = nullptr;
  std::uint64_t units_ = 0;
};

}  // namespace tidemark
