// Limits of throttle groups, as QMP has them: all together, or each as a property.
#pragma once

#include "filter/throttle_group.hpp"
#include "schema/object.hpp"

namespace tidemark {

// Those that are given take the place of those before.  Checked.
Result<ThrottleLimits> with_limits(const ThrottleLimits& before, const schema::ThrottleLimits& given);
Result<ThrottleLimits> to_limits(const schema::ThrottleGroupProperties& given);

schema::ThrottleLimits describe_limits(const ThrottleLimits& limits);

}  // namespace tidemark
