// throttle: a filter whose requests wait until its group lets them begin, in their order, reads and writes each for themselves.
//
// While somebody wants the node at rest nobody waits: what was held back goes on at once.
#pragma once

#include "block/node.hpp"
#include "filter/throttle_group.hpp"

namespace tidemark {

std::unique_ptr<BlockDriver> open_throttle(std::unique_ptr<Edge> file, std::shared_ptr<ThrottleGroup> group);

}  // namespace tidemark
