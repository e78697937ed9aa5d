// NBD exports as QEMU and the NBD specification name them: URIs, and QEMU's older nbd:HOST:PORT.
#pragma once

#include <string>

#include "base/json.hpp"

namespace tidemark::cli {

// What blockdev-add takes for it.
Result<Json> describe_nbd(const std::string& name);

}  // namespace tidemark::cli
