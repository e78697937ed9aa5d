// Changes of qcow2 images where it matters (qcow2_mutator.cpp).
#pragma once

#include "base/bytes.hpp"
#include "base/random.hpp"

namespace tidemark {

// False: nothing of what was looked for is there.
bool change_image(MutableBytes image, Prng& random);

}  // namespace tidemark
