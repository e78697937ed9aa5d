// A daemon's job, started and seen through to its end.
//
// Invariant: when run_job() returns, the job is gone, unless it is to stay or the daemon cannot be reached; interrupted, or when
// it could not be told to end, it was cancelled.  Nobody has to dismiss it, also when this program is killed.
#pragma once

#include "app/cli/context.hpp"

namespace tidemark::cli {

// What is done with a job that is ready: it takes effect, it lets go of its target, or it stays.
enum class WhenReady : std::uint8_t { complete, let_go, stay };

struct DaemonJob {
  std::string command;
  Json arguments;                        // without its name
  WhenReady when_ready = WhenReady::complete;
};

// The job's name.  `client` sees things through.  An error that is cancelled: interrupted, and it has taken no effect.
Task<std::string> run_job(const Context& context, QmpClient& client, DaemonJob job);

}  // namespace tidemark::cli
