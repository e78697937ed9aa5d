// Who may use a file that takes another's place: whoever could use the other.
#pragma once

#include <string>

#include "base/error.hpp"

namespace tidemark {

// Gives `to`, which this process has made, the owner, the group and the mode that `from` has; as far as it may give it to others.
Result<> take_over_owner(const std::string& from, const std::string& to);

}  // namespace tidemark
