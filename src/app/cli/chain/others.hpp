// Who else reads an image of a chain: it may be written to only where all that changes is known.
#pragma once

#include "app/cli/chain/commands.hpp"

namespace tidemark::cli {

// Whether other images than the layer right above stand on a layer, in files beside those of the chain or, with a daemon, as
// its nodes; also where that cannot be known.  Files in other directories are not looked for.
Task<bool> others_may_stand_on(const Context& context, QmpClient* client, const Json& layers, std::size_t layer);

// A file beside an image, or beside what links of its name lead to, that is known to stand on it; empty: none is.
Task<std::string> file_that_stands_on(Reactor& reactor, std::string image);

}  // namespace tidemark::cli
