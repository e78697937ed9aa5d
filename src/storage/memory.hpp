// memory: a sparse disk in this process's memory, gone with it.  For scratch space and tests.
//
// Only pages that were written take memory; discarding or zeroing a whole page gives it back.
#pragma once

#include <memory>

#include "block/driver.hpp"

namespace tidemark {

struct MemoryOptions {
  std::uint64_t size = 0;
};

Result<std::unique_ptr<BlockDriver>> open_memory(MemoryOptions options);

}  // namespace tidemark
