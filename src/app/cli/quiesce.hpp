// Guests at rest while something is done: a command freezes them before and thaws them after.
//
// Invariant: where `freeze` was begun, `thaw` is run, once, after it has ended: when the work is done, fails, is interrupted or
// takes too long, and by a process of its own that waits for that, so also when this program is killed.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "task/task.hpp"

namespace tidemark::cli {

struct Context;

struct QuiesceOptions {
  std::string command;                   // run with "freeze" and "thaw"; empty: nothing is
  std::uint64_t timeout = 30;            // seconds, for each of freezing, what is done meanwhile, and thawing
};

// An error where the work was done, but not all of it between the two, says so.
Task<> while_quiesced(const Context& context, QuiesceOptions options, std::string disks, std::function<Task<>()> work);

}  // namespace tidemark::cli
