// Giving an image another one to stand on, without its content changing: what differs between the old one and the new
// one, and the image does not decide itself, is written into it.
#pragma once

#include "block/edge.hpp"
#include "image/workers.hpp"

namespace tidemark::image {

// `overlay` is open without anything below it; `before` and `after` may be null: zeroes.  Returns the bytes that were
// written.  What was under way when it is interrupted has changed nothing that is seen above `before`.
Task<std::uint64_t> copy_differences(Edge& overlay, Edge* before, Edge* after, Course course);

}  // namespace tidemark::image
