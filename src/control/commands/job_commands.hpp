// Commands and events of jobs: QMP's words for what job/ does.
#pragma once

#include "control/qmp/commands/block_job.hpp"
#include "control/qmp/commands/job.hpp"
#include "control/qmp/event_sink.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class JobEventSender final : public JobEvents {
 public:
  explicit JobEventSender(EventSink& sink) : sink_(sink) {}
  void status_changed(const std::string& id, JobStatus status) override;
  void completed(const JobInfo& job) override;
  void cancelled(const JobInfo& job) override;
  void ready(const JobInfo& job) override;
  void pending(const JobInfo& job) override;
  void error(const std::string& id, IoSide operation, ErrorAction action) override;

 private:
  EventSink& sink_;
};

class JobCommandHandler final : public JobCommands, public BlockJobCommands {
 public:
  explicit JobCommandHandler(JobManager& jobs) : jobs_(jobs) {}

  Task<> job_pause(schema::JobPauseArguments arguments) override;
  Task<> job_resume(schema::JobResumeArguments arguments) override;
  Task<> job_cancel(schema::JobCancelArguments arguments) override;
  Task<> job_complete(schema::JobCompleteArguments arguments) override;
  Task<> job_dismiss(schema::JobDismissArguments arguments) override;
  Task<> job_finalize(schema::JobFinalizeArguments arguments) override;
  Task<std::vector<schema::JobInfo>> query_jobs() override;

  Task<std::vector<schema::BlockJobInfo>> query_block_jobs() override;
  Task<> block_job_set_speed(schema::BlockJobSetSpeedArguments arguments) override;
  Task<> block_job_cancel(schema::BlockJobCancelArguments arguments) override;
  Task<> block_job_pause(schema::BlockJobPauseArguments arguments) override;
  Task<> block_job_resume(schema::BlockJobResumeArguments arguments) override;
  Task<> block_job_complete(schema::BlockJobCompleteArguments arguments) override;
  Task<> block_job_dismiss(schema::BlockJobDismissArguments arguments) override;
  Task<> block_job_change(schema::BlockJobChangeOptions arguments) override;
  Task<> block_job_finalize(schema::BlockJobFinalizeArguments arguments) override;

 private:
  JobManager& jobs_;
};

}  // namespace tidemark
