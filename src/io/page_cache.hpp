// What becomes of the pages that a copier has written through the host's page cache, once they are on the device.
#pragma once

#include <cstdint>

namespace tidemark {

enum class PageCache : std::uint8_t {
  keep,
  drop,                             // nobody reads them soon: what others have there is worth more
};

}  // namespace tidemark
