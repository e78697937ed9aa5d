// compress: a filter whose writes become compressed clusters of the image below.
#pragma once

#include "block/node.hpp"

namespace tidemark {

// Errc::unsupported where the format below knows no compression.
Task<std::unique_ptr<BlockDriver>> open_compress(BlockNode& file);

}  // namespace tidemark
