#include "control/graph/throttle_limits.hpp"

namespace tidemark {
namespace {

using Kind = ThrottleLimits::Kind;
using Value = std::optional<std::int64_t>;

// The members of a description, with or without the `x_` before them, and what they are of the limits.
template <class Given, class Limits, class Do>
void for_each_limit(Given& given, Limits& limits, const Do& act) {
  act(given.bps_total, limits.of[Kind::bps_total].average);
  act(given.bps_total_max, limits.of[Kind::bps_total].max);
  act(given.bps_total_max_length, limits.of[Kind::bps_total].length);
  act(given.bps_read, limits.of[Kind::bps_read].average);
  act(given.bps_read_max, limits.of[Kind::bps_read].max);
  act(given.bps_read_max_length, limits.of[Kind::bps_read].length);
  act(given.bps_write, limits.of[Kind::bps_write].average);
  act(given.bps_write_max, limits.of[Kind::bps_write].max);
  act(given.bps_write_max_length, limits.of[Kind::bps_write].length);
  act(given.iops_total, limits.of[Kind::iops_total].average);
  act(given.iops_total_max, limits.of[Kind::iops_total].max);
  act(given.iops_total_max_length, limits.of[Kind::iops_total].length);
  act(given.iops_read, limits.of[Kind::iops_read].average);
  act(given.iops_read_max, limits.of[Kind::iops_read].max);
  act(given.iops_read_max_length, limits.of[Kind::iops_read].length);
  act(given.iops_write, limits.of[Kind::iops_write].average);
  act(given.iops_write_max, limits.of[Kind::iops_write].max);
  act(given.iops_write_max_length, limits.of[Kind::iops_write].length);
  act(given.iops_size, limits.iops_size);
}

template <class Given, class Limits, class Do>
void for_each_x_limit(Given& given, Limits& limits, const Do& act) {
  act(given.x_bps_total, limits.of[Kind::bps_total].average);
  act(given.x_bps_total_max, limits.of[Kind::bps_total].max);
  act(given.x_bps_total_max_length, limits.of[Kind::bps_total].length);
  act(given.x_bps_read, limits.of[Kind::bps_read].average);
  act(given.x_bps_read_max, limits.of[Kind::bps_read].max);
  act(given.x_bps_read_max_length, limits.of[Kind::bps_read].length);
  act(given.x_bps_write, limits.of[Kind::bps_write].average);
  act(given.x_bps_write_max, limits.of[Kind::bps_write].max);
  act(given.x_bps_write_max_length, limits.of[Kind::bps_write].length);
  act(given.x_iops_total, limits.of[Kind::iops_total].average);
  act(given.x_iops_total_max, limits.of[Kind::iops_total].max);
  act(given.x_iops_total_max_length, limits.of[Kind::iops_total].length);
  act(given.x_iops_read, limits.of[Kind::iops_read].average);
  act(given.x_iops_read_max, limits.of[Kind::iops_read].max);
  act(given.x_iops_read_max_length, limits.of[Kind::iops_read].length);
  act(given.x_iops_write, limits.of[Kind::iops_write].average);
  act(given.x_iops_write_max, limits.of[Kind::iops_write].max);
  act(given.x_iops_write_max_length, limits.of[Kind::iops_write].length);
  act(given.x_iops_size, limits.iops_size);
}

void take(const Value& given, std::int64_t& to) {
  if (given) to = *given;
}

}  // namespace

Result<ThrottleLimits> with_limits(const ThrottleLimits& before, const schema::ThrottleLimits& given) {
  ThrottleLimits limits = before;
  for_each_limit(given, limits, take);
  if (auto ok = check_limits(limits); !ok) return ok.error();
  return limits;
}

// What is given for itself counts more than what is in `limits`, as in QEMU.
Result<ThrottleLimits> to_limits(const schema::ThrottleGroupProperties& given) {
  ThrottleLimits limits;
  bool negative = false;
  if (given.limits) for_each_limit(*given.limits, limits, take);
  for_each_x_limit(given, limits, [&](const Value& value, std::int64_t& to) {
    negative = negative || value.value_or(0) < 0;
    take(value, to);
  });
  if (negative) return Error(Errc::invalid_argument, "Property values cannot be negative");
  if (auto ok = check_limits(limits); !ok) return ok.error();
  return limits;
}

schema::ThrottleLimits describe_limits(const ThrottleLimits& limits) {
  schema::ThrottleLimits told;
  for_each_limit(told, limits, [](Value& value, std::int64_t from) { value = from; });
  return told;
}

}  // namespace tidemark
