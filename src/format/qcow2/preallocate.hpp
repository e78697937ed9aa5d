// Space in a file, made sure of before it is needed.
#pragma once

#include "block/edge.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark::qcow2 {

// The range, of zeroes so far, takes its space on storage (falloc), by being written (full), or does not.
Task<> reserve(Edge& file, Range range, Qcow2Preallocation how, CancelToken interrupted = {});

}  // namespace tidemark::qcow2
