// Clusters of an image that nothing in it refers to, given back to it.
#pragma once

#include "app/cli/context.hpp"
#include "app/cli/image/names.hpp"

namespace tidemark::cli {

// Of a qcow2 image that nobody has open.
Task<> give_back_leaks(const Context& context, ImageName image);

// After a verb that wrote to the image, a file, has failed: on a full volume what it wrote last may have no table that leads to it.
// The file ends behind its last cluster then.
// What there is to say of that: where it cannot be given back, how to do it later.
Task<std::string> tidy_after_failure(const Context& context, ImageName image);

}  // namespace tidemark::cli
