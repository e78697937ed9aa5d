// The program's version, from the build.
#pragma once

namespace tidemark {

inline constexpr const char* version_text = TIDEMARK_VERSION;

}  // namespace tidemark
