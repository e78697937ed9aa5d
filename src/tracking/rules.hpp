// Those of the engine's rules that are the store's.
#pragma once

#include "block/rules.hpp"

namespace tidemark::tracking {

using tidemark::Rule;

}  // namespace tidemark::tracking
