#include "filter/throttle_group.hpp"

#include <algorithm>

namespace tidemark {
namespace {

constexpr std::int64_t value_max = 1'000'000'000'000'000;
constexpr double ns_per_s = 1e9;
constexpr std::int64_t wait_max = 1'000'000'000'000'000;       // ns: eleven days

std::int64_t to_ns(double seconds) noexcept {
  return static_cast<std::int64_t>(std::min(seconds * ns_per_s, static_cast<double>(wait_max)));
}

Error invalid(const char* what) { return Error(Errc::invalid_argument, what); }

Result<> check(const ThrottleLimits::Limit& limit) {
  const bool in_range = limit.average >= 0 && limit.average <= value_max && limit.max >= 0 && limit.max <= value_max;
  if (!in_range) return invalid("bps/iops/max values must be within [0, 1000000000000000]");
  if (limit.length <= 0) return invalid("the burst length cannot be 0");
  if (limit.length > 1 && limit.max == 0) return invalid("burst length set without burst rate");
  if (limit.max != 0 && limit.length > value_max / limit.max) return invalid("burst length too high for this burst rate");
  if (limit.max != 0 && limit.average == 0) return invalid("bps_max/iops_max require corresponding bps/iops values");
  if (limit.max != 0 && limit.max < limit.average) return invalid("bps_max/iops_max cannot be lower than bps/iops");
  return {};
}

}  // namespace

Result<> check_limits(const ThrottleLimits& limits) {
  using Kind = ThrottleLimits::Kind;
  const auto set = [&](Kind kind) { return limits.of[kind].average != 0; };
  const auto bursts = [&](Kind kind) { return limits.of[kind].max != 0; };
  const bool both = (set(Kind::bps_total) && (set(Kind::bps_read) || set(Kind::bps_write))) ||
                    (set(Kind::iops_total) && (set(Kind::iops_read) || set(Kind::iops_write))) ||
                    (bursts(Kind::bps_total) && (bursts(Kind::bps_read) || bursts(Kind::bps_write))) ||
                    (bursts(Kind::iops_total) && (bursts(Kind::iops_read) || bursts(Kind::iops_write)));
  if (both) return invalid("bps/iops/max total values and read/write values cannot be used at the same time");
  if (limits.iops_size < 0) return invalid("bps/iops/max values must be within [0, 1000000000000000]");
  if (limits.iops_size != 0 && !set(Kind::iops_total) && !set(Kind::iops_read) && !set(Kind::iops_write))
    return invalid("iops size requires an iops value to be set");
  for (const ThrottleLimits::Limit& limit : limits.of)
    if (auto ok = check(limit); !ok) return ok;
  return {};
}

void ThrottleGroup::set(const ThrottleLimits& limits) noexcept {
  limits_ = limits;
  for (std::size_t i = 0; i < ThrottleLimits::kinds; ++i) {
    const ThrottleLimits::Limit& limit = limits.of[i];
    const auto average = static_cast<double>(limit.average), max = static_cast<double>(limit.max);
    Pair& pair = buckets_[i];
    pair.bucket.volume = limit.max != 0 ? max * static_cast<double>(limit.length) : average;
    pair.bucket.rate = average;
    pair.burst.volume = max / 10;
    pair.burst.rate = max;
    pair.bucket.empty_at = pair.burst.empty_at = 0;      // times were of the old rate
  }
  iops_size_ = limits.iops_size;
}

std::int64_t ThrottleGroup::Bucket::wait(std::int64_t now) const noexcept {
  const double a_second = rate;
  if (a_second == 0) return 0;
  return std::max<std::int64_t>(0, empty_at - now - to_ns(volume / a_second));
}

void ThrottleGroup::Bucket::fill(double units, std::int64_t now) noexcept {
  const double a_second = rate;
  if (a_second == 0) return;
  const std::int64_t takes = to_ns(units / a_second);
  std::int64_t before = empty_at;
  while (!empty_at.compare_exchange_weak(before, std::max(before, now) + takes)) {}
}

Duration ThrottleGroup::charge(bool is_write, std::uint64_t bytes, Instant now) noexcept {
  using Kind = ThrottleLimits::Kind;
  const std::int64_t size = iops_size_, at = now.count();
  const auto length = static_cast<double>(bytes);
  const double operations = size != 0 ? std::max(1.0, length / static_cast<double>(size)) : 1.0;
  const std::pair<Kind, double> costs[] = {{Kind::bps_total, length},
                                           {is_write ? Kind::bps_write : Kind::bps_read, length},
                                           {Kind::iops_total, operations},
                                           {is_write ? Kind::iops_write : Kind::iops_read, operations}};
  std::int64_t wait = 0;
  for (const auto& [kind, cost] : costs) wait = std::max({wait, buckets_[kind].bucket.wait(at), buckets_[kind].burst.wait(at)});
  if (wait > 0) return Duration(wait);
  for (const auto& [kind, cost] : costs) {
    buckets_[kind].bucket.fill(cost, at);
    buckets_[kind].burst.fill(cost, at);
  }
  return {};
}

}  // namespace tidemark
