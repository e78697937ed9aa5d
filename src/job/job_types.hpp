// The words of jobs, with QEMU's meaning (qapi/job.json, qapi/block-core.json): what a job is,
// which state it is in, what may be done to it there, and what others learn of it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/error.hpp"

namespace tidemark {

enum class JobType : std::uint8_t { commit, stream, mirror, backup, create, amend };
std::string_view to_string(JobType type) noexcept;

enum class JobStatus : std::uint8_t {
  undefined,
  created,  // not started
  running,
  paused,
  ready,    // runs on, and can be completed
  standby,  // ready, and paused
  waiting,  // done; others of its transaction are not
  pending,  // all are done; to be finalized
  aborting,
  concluded,  // over; to be dismissed
  null,       // dismissed
};
std::string_view to_string(JobStatus status) noexcept;
// Whether a job may go from one state to the other.
bool follows(JobStatus from, JobStatus to) noexcept;

enum class JobVerb : std::uint8_t {
  cancel,
  pause,
  resume,
  set_speed,
  complete,
  dismiss,
  finalize,
  change,
};
std::string_view to_string(JobVerb verb) noexcept;
bool accepts(JobStatus status, JobVerb verb) noexcept;
// "Job 'x' in state 'y' cannot accept command verb 'z'"
Result<> check_verb(const std::string& id, JobStatus status, JobVerb verb);

// What an I/O error of a job leads to (qapi: BlockdevOnError), and what was done about one
// (BlockErrorAction).  `automatic` is enospc: a job's nodes have no device to inherit from.
enum class OnError : std::uint8_t { report, ignore, enospc, stop, automatic };
enum class ErrorAction : std::uint8_t { report, ignore, stop };
ErrorAction decide(OnError policy, const Error& error) noexcept;
std::string_view to_string(ErrorAction action) noexcept;

enum class IoSide : std::uint8_t { read, write };
std::string_view to_string(IoSide side) noexcept;

enum class JobIoStatus : std::uint8_t { ok, failed, nospace };
std::string_view to_string(JobIoStatus status) noexcept;

struct JobProgress {
  std::uint64_t current = 0, total = 0;
};

// What the guest has overwritten and the target does not have yet, in bytes.
struct JobStaging {
  std::uint64_t staged = 0;   // in memory and spilled
  std::uint64_t spilled = 0;  // to the scratch file
  std::uint64_t budget = 0;   // the most there may be
};

// Everything that query-jobs and query-block-jobs show.
struct JobInfo {
  std::string id;
  JobType type = JobType::backup;
  bool is_block_job = true;
  JobStatus status = JobStatus::undefined;
  JobProgress progress;
  std::optional<std::string> error;
  std::optional<JobStaging> staging;  // while the job is at work
  std::optional<bool> actively_synced;  // of mirrors
  bool busy = false, paused = false, ready = false;
  std::uint64_t speed = 0;  // bytes a second; 0: unlimited
  JobIoStatus io_status = JobIoStatus::ok;
  bool auto_finalize = true, auto_dismiss = true;
};

// The events of jobs, in the order they happen.  Calls do not wait and do not call back.
class JobEvents {
 public:
  virtual void status_changed(const std::string& id, JobStatus status) = 0;
  // Of block jobs only.
  virtual void completed(const JobInfo& job) = 0;  // job.error says whether it failed
  virtual void cancelled(const JobInfo& job) = 0;
  virtual void ready(const JobInfo& job) = 0;
  virtual void pending(const JobInfo& job) = 0;
  virtual void error(const std::string& id, IoSide operation, ErrorAction action) = 0;

 protected:
  ~JobEvents() = default;
};

}  // namespace tidemark
