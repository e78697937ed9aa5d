// null-co: a disk that keeps nothing.  Writes succeed; reads give zeroes with read_zeroes, else
// leave the buffer as it was.  For measuring what is above it.
#pragma once

#include <memory>

#include "block/driver.hpp"
#include "io/reactor.hpp"

namespace tidemark {

struct NullOptions {
  std::uint64_t size = 1 * GiB;
  std::uint64_t latency_ns = 0;  // of every request
  bool read_zeroes = false;
  bool aio = false;              // its name is null-aio, which says the same
};

Result<std::unique_ptr<BlockDriver>> open_null(Reactor& reactor, NullOptions options);

}  // namespace tidemark
