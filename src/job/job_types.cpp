#include "job/job_types.hpp"

#include <cerrno>

namespace tidemark {
namespace {

template <class... States>
constexpr unsigned set(States... states) noexcept {
  return (0u | ... | (1u << static_cast<unsigned>(states)));
}
constexpr bool has(unsigned states, JobStatus status) noexcept {
  return (states >> static_cast<unsigned>(status)) & 1u;
}

using enum JobStatus;

// By state: which may come next.
constexpr unsigned next_states[] = {
    /* undefined */ set(created),
    /* created   */ set(running, aborting, null),
    /* running   */ set(paused, ready, waiting, aborting),
    /* paused    */ set(running),
    /* ready     */ set(standby, waiting, aborting),
    /* standby   */ set(ready),
    /* waiting   */ set(pending, aborting),
    /* pending   */ set(aborting, concluded),
    /* aborting  */ set(concluded),
    /* concluded */ set(null),
    /* null      */ 0,
};

// By verb: in which states it is accepted.
constexpr unsigned started = set(running, paused, ready, standby);
constexpr unsigned accepting_states[] = {
    /* cancel    */ started | set(created, waiting, pending),
    /* pause     */ started | set(created),
    /* resume    */ started | set(created),
    /* set-speed */ started | set(created),
    /* complete  */ set(ready, standby),
    /* dismiss   */ set(concluded),
    /* finalize  */ set(pending),
    /* change    */ started | set(created),
};

}  // namespace

std::string_view to_string(JobType type) noexcept {
  constexpr std::string_view names[] = {"commit", "stream", "mirror", "backup", "create", "amend"};
  return names[static_cast<unsigned>(type)];
}

std::string_view to_string(JobStatus status) noexcept {
  constexpr std::string_view names[] = {"undefined", "created",   "running", "paused",
                                        "ready",     "standby",   "waiting", "pending",
                                        "aborting",  "concluded", "null"};
  return names[static_cast<unsigned>(status)];
}

std::string_view to_string(JobVerb verb) noexcept {
  constexpr std::string_view names[] = {"cancel",   "pause",   "resume",   "set-speed",
                                        "complete", "dismiss", "finalize", "change"};
  return names[static_cast<unsigned>(verb)];
}

std::string_view to_string(ErrorAction action) noexcept {
  constexpr std::string_view names[] = {"report", "ignore", "stop"};
  return names[static_cast<unsigned>(action)];
}

std::string_view to_string(IoSide side) noexcept { return side == IoSide::read ? "read" : "write"; }

std::string_view to_string(JobIoStatus status) noexcept {
  constexpr std::string_view names[] = {"ok", "failed", "nospace"};
  return names[static_cast<unsigned>(status)];
}

bool follows(JobStatus from, JobStatus to) noexcept {
  return has(next_states[static_cast<unsigned>(from)], to);
}

bool accepts(JobStatus status, JobVerb verb) noexcept {
  return has(accepting_states[static_cast<unsigned>(verb)], status);
}

Result<> check_verb(const std::string& id, JobStatus status, JobVerb verb) {
  if (accepts(status, verb)) return {};
  return Error(Errc::invalid_argument,
               "Job '" + id + "' in state '" + std::string(to_string(status)) +
                   "' cannot accept command verb '" + std::string(to_string(verb)) + "'");
}

ErrorAction decide(OnError policy, const Error& error) noexcept {
  switch (policy) {
    case OnError::report: return ErrorAction::report;
    case OnError::ignore: return ErrorAction::ignore;
    case OnError::stop: return ErrorAction::stop;
    case OnError::enospc:
    case OnError::automatic: break;
  }
  return error.to_errno() == ENOSPC ? ErrorAction::stop : ErrorAction::report;
}

}  // namespace tidemark
