#include "job/managed_job.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/node.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t ns_per_s = 1'000'000'000;

Duration time_for(std::uint64_t bytes, std::uint64_t speed) noexcept {
  const auto ns = static_cast<unsigned __int128>(bytes) * ns_per_s / speed;
  constexpr std::uint64_t longest = 365ull * 24 * 3600 * ns_per_s;
  return Duration(ns < longest ? static_cast<std::uint64_t>(ns) : longest);
}

// QEMU shows the system's text for an error where there is one.
std::string text_of(const Error& error) {
  char buffer[128];
  if (error.os_errno() == 0) return error.message();
  return strerror_r(error.os_errno(), buffer, sizeof buffer);  // GNU form: returns the text
}

}  // namespace

ManagedJob::ManagedJob(Reactor& reactor, JobEvents& events, JobOptions options,
                       std::unique_ptr<Job> job)
    : reactor_(reactor),
      home_(options.home ? *options.home : reactor),
      events_(events),
      options_(std::move(options)),
      job_(std::move(job)),
      resumed_(reactor),
      interrupted_(reactor),
      ended_waiters_(reactor) {
  signals_.speed = options_.speed;
}

JobInfo ManagedJob::info() const {
  TM_ASSERT(final_progress_ || at_home());
  return info(final_progress_ ? *final_progress_ : job_->progress());
}

JobInfo ManagedJob::info(JobProgress progress) const {
  const bool is_paused = status_ == JobStatus::paused || status_ == JobStatus::standby;
  const bool is_ready = status_ == JobStatus::ready || status_ == JobStatus::standby;
  JobInfo info;
  info.id = id();
  info.type = job_->type();
  info.is_block_job = job_->is_block_job();
  info.status = status_;
  info.progress = progress;
  if (error_) info.error = text_of(*error_);
  info.busy =
      !ended_ && !is_paused && sleeps_.empty() && idlers_ == 0 && status_ != JobStatus::created;
  info.paused = pause_count_ != 0;
  info.ready = is_ready;
  info.speed = options_.speed;
  info.io_status = io_status_;
  info.auto_finalize = options_.auto_finalize;
  info.auto_dismiss = options_.auto_dismiss;
  return info;
}

void ManagedJob::set_status(JobStatus status) {
  if (status == status_) return;
  TM_ASSERT(follows(status_, status));
  status_ = status;
  events_.status_changed(id(), status);
}

Result<> ManagedJob::check(JobVerb verb) const { return check_verb(id(), status_, verb); }

bool ManagedJob::drained() const noexcept {
  if (!at_home()) return false;
  const Edge* edge = job_->edge();
  return edge && edge->node().quiesced();
}

bool ManagedJob::interrupted() const noexcept {
  return cancelled_ || pause_count_ != 0 || drained();
}

void ManagedJob::set_paused_status(bool paused) {
  using S = JobStatus;
  if (paused && status_ == S::running)
    set_status(S::paused);
  else if (paused && status_ == S::ready)
    set_status(S::standby);
  else if (!paused && status_ == S::paused)
    set_status(S::running);
  else if (!paused && status_ == S::standby)
    set_status(S::ready);
}

Task<> ManagedJob::checkpoint() {
  while (!cancelled_ && (pause_count_ != 0 || drained())) {
    set_paused_status(true);
    if (pause_count_ != 0) {
      (void)co_await resumed_.wait();
    } else {
      const InFlight drain_is_over = co_await job_->edge()->enter();
    }
  }
  set_paused_status(false);
  if (cancelled_) co_await cancelled_error();
}

Task<> ManagedJob::wait() {
  if (interrupted()) co_return;
  ++idlers_;
  (void)co_await interrupted_.wait();
  --idlers_;
}

Task<> ManagedJob::sleep(Duration duration) {
  if (interrupted()) co_return;
  const auto place = sleeps_.emplace(sleeps_.end());
  (void)co_await reactor_.sleep(duration, place->token()).result();
  sleeps_.erase(place);
}

void ManagedJob::kick() noexcept {
  wake();
  for (CancelSource& source : sleeps_) source.request();
}

Duration ManagedJob::delay() const noexcept {
  return options_.speed == 0 ? Duration::zero() : free_at_ - reactor_.now();
}

Task<> ManagedJob::charge(std::uint64_t bytes) {
  while (delay() > Duration::zero() && !interrupted()) co_await sleep(delay());
  if (options_.speed != 0)
    free_at_ = std::max(free_at_, reactor_.now()) + time_for(bytes, options_.speed);
}

void ManagedJob::refund(std::uint64_t bytes) noexcept {
  if (options_.speed != 0) free_at_ -= time_for(bytes, options_.speed);
}

Result<> ManagedJob::set_speed(std::uint64_t speed) {
  if (auto ok = check(JobVerb::set_speed); !ok) return ok;
  signals_.speed = options_.speed = speed;
  free_at_ = reactor_.now();
  kick();
  return {};
}

Task<ErrorAction> ManagedJob::failed(OnError policy, IoSide side, Error error) {
  const ErrorAction action = decide(policy, error);
  events_.error(id(), side, action);
  if (action != ErrorAction::stop) co_return action;
  // As if the user had paused it: he resumes it.
  if (!user_paused_) pause();
  user_paused_ = true;
  io_status_ = error.to_errno() == ENOSPC ? JobIoStatus::nospace : JobIoStatus::failed;
  co_return action;
}

void ManagedJob::set_ready() { show_ready(job_->progress()); }

void ManagedJob::show_ready(JobProgress progress) {
  set_status(JobStatus::ready);
  if (job_->is_block_job()) events_.ready(info(progress));
}

void ManagedJob::pause() noexcept {
  ++pause_count_;
  publish();
  kick();
}

void ManagedJob::resume() noexcept {
  TM_ASSERT(pause_count_ != 0);
  if (--pause_count_ == 0) resumed_.wake_all();
  publish();
}

Result<> ManagedJob::user_pause() {
  if (auto ok = check(JobVerb::pause); !ok) return ok;
  if (user_paused_) return Error(Errc::busy, "Job is already paused");
  user_paused_ = true;
  pause();
  return {};
}

Result<> ManagedJob::user_resume() {
  if (!user_paused_) return Error(Errc::invalid_argument, "Can't resume a job that was not paused");
  if (auto ok = check(JobVerb::resume); !ok) return ok;
  io_status_ = JobIoStatus::ok;
  user_paused_ = false;
  resume();
  return {};
}

void ManagedJob::request_cancel(bool force) {
  if (user_paused_) {
    io_status_ = JobIoStatus::ok;
    user_paused_ = false;
    resume();
  }
  cancel_asked_ = true;
  if (job_->cancel(force)) {
    cancelled_ = true;
    publish();
    resumed_.wake_all();
  }
  kick();
}

void ManagedJob::end(Result<> outcome) {
  ended_ = true;
  const bool gave_up = cancelled_ && !outcome && outcome.error().code() == Errc::cancelled;
  if (!outcome && !gave_up) error_ = outcome.error();
  fail_if_cancelled();
  ended_waiters_.wake_all();
}

void ManagedJob::fail_if_cancelled() {
  if (cancelled_ && !error_) error_ = Error(Errc::cancelled, "Operation canceled", ECANCELED);
}

}  // namespace tidemark
