// Who may use a file that takes another's place: whoever could use the other.
#pragma once

#include <string>

#include "base/error.hpp"

namespace tidemark {

// Gives `to` the owner, the group and the mode that `from` has.
Result<> take_over_owner(const std::string& from, const std::string& to);

}  // namespace tidemark
