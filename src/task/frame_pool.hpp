// Memory for coroutine frames: thread-local free lists by size class, so that a request's frames
// cost a few nanoseconds.  A frame that ends on another thread than it began on stays with that one's.  Under AddressSanitizer the
// pool stands aside, so that use after free is seen.
#pragma once

#include <cstddef>

namespace tidemark::detail {

void* allocate_frame(std::size_t size);
void free_frame(void* frame, std::size_t size) noexcept;

}  // namespace tidemark::detail
