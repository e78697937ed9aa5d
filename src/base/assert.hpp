// TM_ASSERT: programmer errors only, and kept in release builds.  What a peer, a disk or a user
// sends is answered with an Error instead.
#pragma once

namespace tidemark {

[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace tidemark

#define TM_ASSERT(expression)                                                     \
  (static_cast<bool>(expression)                                                  \
       ? void(0)                                                                  \
       : ::tidemark::assertion_failed(#expression, __FILE__, __LINE__))
