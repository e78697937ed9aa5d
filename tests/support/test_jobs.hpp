// For tests of jobs: disks, a job manager that writes its events down, and backups to start.
#pragma once

#include "job/backup/backup.hpp"
#include "tests/support/test_disks.hpp"

namespace tidemark::test {

// Events as words, one line each: "a running", "a completed 1048576/1048576".
class EventLog final : public JobEvents {
 public:
  void status_changed(const std::string& id, JobStatus status) override {
    add(id, to_string(status));
  }
  void completed(const JobInfo& job) override {
    add(job.id, "completed " + numbers(job) + (job.error ? " " + *job.error : ""));
  }
  void cancelled(const JobInfo& job) override { add(job.id, "cancelled " + numbers(job)); }
  void ready(const JobInfo& job) override { add(job.id, "ready " + numbers(job)); }
  void pending(const JobInfo& job) override { add(job.id, "PENDING"); }
  void error(const std::string& id, IoSide operation, ErrorAction action) override {
    add(id, "error " + std::string(to_string(operation)) + " " + std::string(to_string(action)));
  }

  // What came since the last call.
  std::string take() { return std::exchange(lines_, {}); }

 private:
  void add(const std::string& id, std::string_view what) {
    lines_ += id + " " + std::string(what) + "\n";
  }
  static std::string numbers(const JobInfo& job) {
    return std::to_string(job.progress.current) + "/" + std::to_string(job.progress.total);
  }
  std::string lines_;
};

class JobsTest : public testing::Test {
 protected:
  // A test's body runs while `jobs` is there; all jobs are cancelled behind it.
  void run(std::function<Task<>()> body) {
    const auto with_jobs = [&](TaskGroup& group) -> Task<> {
      JobManager manager(disks->process.reactor(), group, events);
      jobs = &manager;
      co_await body();
      co_await manager.cancel_all();
      jobs = nullptr;
    };
    disks->run(with_group(disks->process.reactor(), with_jobs));
  }
  void restart(std::uint64_t seed) { disks.emplace(seed); }

  BackupOptions backup(std::string id, BlockNode& source, BlockNode& target,
                       SyncMode sync = SyncMode::full) {
    BackupOptions options;
    options.job.id = std::move(id);
    options.source = &source;
    options.target = &target;
    options.sync = sync;
    return options;
  }
  // As the command does it: a transaction of one.
  Task<ManagedJob*> start(BackupOptions options) {
    const auto drained = co_await disks->graph.drain(*options.source);
    ManagedJob* job = co_await BackupJob::create(*jobs, std::move(options));
    jobs->start(*job);
    co_return job;
  }
  Task<> start_all(std::vector<BackupOptions> all, bool grouped) {
    std::vector<Graph::DrainGuard> drained;
    std::vector<ManagedJob*> prepared;
    const auto together = grouped ? jobs->new_transaction() : nullptr;
    for (BackupOptions& options : all) {
      drained.push_back(co_await disks->graph.drain(*options.source));
      options.job.transaction = together;
      prepared.push_back(co_await BackupJob::create(*jobs, options));
    }
    for (ManagedJob* job : prepared) jobs->start(*job);
  }
  ManagedJob& job(std::string_view id) { return **jobs->find_job(id); }
  bool exists(std::string_view id) { return jobs->find_job(id).ok(); }
  Task<> pass(std::uint64_t ms) { return disks->process.reactor().sleep(Duration(ms * 1'000'000)); }
  // Until the job has this status, or is gone.
  Task<> reach(std::string id, JobStatus status) {
    while (exists(id) && job(id).status() != status) co_await pass(1);
  }
  Task<> end_of(std::string id) {
    while (exists(id) && job(id).status() != JobStatus::concluded) co_await pass(1);
  }
  Task<bool> ends_within(std::string id, std::chrono::seconds limit) {
    const Instant last = disks->process.reactor().now() + limit;
    while (exists(id) && job(id).status() != JobStatus::concluded && disks->process.reactor().now() < last) co_await pass(1);
    co_return !exists(id) || job(id).status() == JobStatus::concluded;
  }
  static std::string message_of(const Result<>& result) {
    return result ? "no error" : result.error().message();
  }

  std::optional<Disks> disks{std::in_place, 1};
  EventLog events;
  JobManager* jobs = nullptr;
};

}  // namespace tidemark::test
