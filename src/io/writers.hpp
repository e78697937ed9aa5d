// Whether programs can write to a file at this moment.
#pragma once

#include <cstdint>
#include <string>

namespace tidemark {

// Unknown: of what is no regular file, of another user's, on file systems that do not know.
enum class Writers : std::uint8_t { none, some, unknown };

// Those that have it open for writing, this process included.
Writers writers_of(const std::string& path);

}  // namespace tidemark
