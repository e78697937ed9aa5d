// Guests at rest while something is done: a command freezes them before and thaws them after.
//
// Invariant: where `freeze` was begun, `thaw` is run, once, after it has ended: when the work is done, fails, is interrupted or
// takes too long, and by a process of its own that waits for that, so also when this program is killed.
#pragma once

#include <functional>

#include "app/cli/snapshot/commands.hpp"

namespace tidemark::cli {

// An error where the work was done, but not all of it between the two, says so.
Task<> while_quiesced(const Context& context, QuiesceOptions options, std::string disks, std::function<Task<>()> work);

}  // namespace tidemark::cli
