// Jobs that end together or each for itself: the sequences are qemu-storage-daemon 7.2's for
// `transaction` with completion-mode grouped and individual.
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {
namespace {

class JobTransactionTest : public JobsTest {
 protected:
  // Backups a (slow), b and, with a target that fails, c.
  std::vector<BackupOptions> make(bool with_c, bool finalize = true) {
    std::vector<BackupOptions> all;
    for (const std::string id : {"a", "b", "c"}) {
      if (id == "c" && !with_c) continue;
      const std::uint64_t size = id == "a" ? 16 * MiB : MiB;
      BlockNode& s = disks->disk("s" + id, size);
      const Content data = disks->random_bytes(size);
      disks->run(Disks::write_at(s, 0, data));
      all.push_back(backup(id, s, disks->disk("t" + id, size)));
      all.back().job.auto_dismiss = false;
      all.back().job.auto_finalize = finalize;
      if (id == "a") all.back().job.speed = MiB;
    }
    if (!with_c) return all;
    FaultRule fault;
    fault.op = FaultOp::write;
    fault.os_errno = EIO;
    fault.latency_ns = 200'000'000;
    disks->set_faults("tc", {fault});
    return all;
  }
  Task<> begin(std::vector<BackupOptions> all, bool grouped) {
    const std::string started = all.size() == 2
                                    ? "a created\nb created\n"
                                      "a running\na paused\nb running\nb paused\n"
                                      "a running\nb running\n"
                                    : "a created\nb created\nc created\n"
                                      "a running\na paused\nb running\nb paused\n"
                                      "c running\nc paused\na running\nb running\nc running\n";
    co_await start_all(std::move(all), grouped);
    co_await pass(100);
    const std::string seen = events.take();
    EXPECT_EQ(seen.substr(0, started.size()), started);
    rest = seen.substr(std::min(seen.size(), started.size()));
  }
  std::string copied(std::string_view id) {
    const JobProgress progress = job(id).info().progress;
    return std::to_string(progress.current) + "/" + std::to_string(progress.total);
  }
  std::string rest;  // of the events that begin() saw
};

TEST_F(JobTransactionTest, IndividualJobsEndEachForItself) {
  auto all = make(false);
  run([&]() -> Task<> {
    co_await begin(all, false);
    EXPECT_EQ(rest, "b waiting\nb pending\nb completed 1048576/1048576\nb concluded\n");
    EXPECT_TRUE(jobs->set_speed(job("a"), 0).ok());
    co_await end_of("a");
    EXPECT_EQ(events.take(), "a waiting\na pending\na completed 16777216/16777216\na concluded\n");
  });
}

TEST_F(JobTransactionTest, GroupedJobsWaitForEachOther) {
  auto all = make(false);
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_EQ(rest, "b waiting\n");
    EXPECT_EQ(message_of(jobs->pause(job("b"))),
              "Job 'b' in state 'waiting' cannot accept command verb 'pause'");
    EXPECT_TRUE(jobs->set_speed(job("a"), 0).ok());
    co_await end_of("a");
    EXPECT_EQ(events.take(),
              "a waiting\nb pending\na pending\nb completed 1048576/1048576\nb concluded\n"
              "a completed 16777216/16777216\na concluded\n");
    // The newest comes first.
    EXPECT_EQ(jobs->jobs().front()->id(), "b");
  });
}

// What it is decided with may be gone elsewhere.
TEST_F(JobTransactionTest, AGroupIsDecidedWhereItsPartsAre) {
  class Here final : public JobTransaction::Part {
   public:
    explicit Here(Reactor& home) : home_(home) {}
    Task<> end(bool) override { co_return; }
    Reactor& home() const noexcept override { return home_; }

   private:
    Reactor& home_;
  };
  JobTransaction::Homes seen;
  const auto decide = [&](std::uint64_t, JobTransaction::Homes homes) -> Task<> {
    seen = std::move(homes);
    co_return;
  };
  Reactor& reactor = disks->process.reactor();
  run([&]() -> Task<> {
    const auto group = jobs->new_group(decide);
    group->add(std::make_unique<Here>(reactor));
    co_await jobs->all_started(group);
  });
  EXPECT_EQ(seen, JobTransaction::Homes{&reactor});
}

TEST_F(JobTransactionTest, OneThatFailsAbortsAll) {
  auto all = make(true);
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_EQ(rest, "b waiting\n");
    co_await end_of("c");
    co_await end_of("a");
    EXPECT_EQ(events.take(),
              "c error write report\nc aborting\nc completed 0/1048576 Input/output error\n"
              "c concluded\nb aborting\nb cancelled 1048576/1048576\nb concluded\n"
              "a aborting\na cancelled " +
                  copied("a") + "\na concluded\n");
    EXPECT_EQ(job("b").info().error, "Operation canceled");
    EXPECT_EQ(job("c").info().error, "Input/output error");
  });
}

TEST_F(JobTransactionTest, OneThatFailsAloneLeavesTheOthersAlone) {
  auto all = make(true);
  run([&]() -> Task<> {
    co_await begin(all, false);
    co_await end_of("c");
    EXPECT_EQ(job("a").status(), JobStatus::running);
    EXPECT_EQ(events.take(),
              "c error write report\nc aborting\n"
              "c completed 0/1048576 Input/output error\nc concluded\n");
  });
}

TEST_F(JobTransactionTest, CancellingOneThatRunsCancelsAll) {
  auto all = make(false);
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_TRUE(jobs->cancel(job("a"), true).ok());
    co_await end_of("a");
    EXPECT_EQ(events.take(),
              "a aborting\nb aborting\nb cancelled 1048576/1048576\nb concluded\n"
              "a cancelled " +
                  copied("a") + "\na concluded\n");
  });
}

TEST_F(JobTransactionTest, CancellingOneThatWaitsCancelsAll) {
  auto all = make(false);
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_TRUE(jobs->cancel(job("b"), true).ok());
    co_await end_of("a");
    EXPECT_EQ(events.take(),
              "b aborting\nb cancelled 1048576/1048576\nb concluded\n"
              "a aborting\na cancelled " +
                  copied("a") + "\na concluded\n");
  });
}

TEST_F(JobTransactionTest, OneThatIsPausedGoesOnWhenItsTurnToEndHasCome) {
  auto all = make(false);
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_TRUE(jobs->pause(job("a")).ok());
    co_await reach("a", JobStatus::paused);
    EXPECT_EQ(events.take(), "a paused\n");
    EXPECT_TRUE(jobs->cancel(job("b"), true).ok());
    co_await end_of("a");
    EXPECT_EQ(events.take(),
              "b aborting\nb cancelled 1048576/1048576\nb concluded\n"
              "a running\na aborting\na cancelled " +
                  copied("a") + "\na concluded\n");
  });
}

TEST_F(JobTransactionTest, FinalizingOneFinalizesAll) {
  auto all = make(false, false);
  all[0].job.auto_finalize = true;  // b alone is enough to make them wait
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_TRUE(jobs->set_speed(job("a"), 0).ok());
    co_await reach("a", JobStatus::pending);
    EXPECT_EQ(events.take(), "a waiting\nb pending\nb PENDING\na pending\n");
    co_await jobs->finalize("a");
    EXPECT_EQ(events.take(),
              "b completed 1048576/1048576\nb concluded\n"
              "a completed 16777216/16777216\na concluded\n");
    EXPECT_EQ(message_of(co_await jobs->finalize("b").result()),
              "Job 'b' in state 'concluded' cannot accept command verb 'finalize'");
  });
}

TEST_F(JobTransactionTest, CancellingOneThatIsPendingCancelsAll) {
  auto all = make(false, false);
  all[1].job.auto_dismiss = true;
  run([&]() -> Task<> {
    co_await begin(all, true);
    EXPECT_TRUE(jobs->set_speed(job("a"), 0).ok());
    co_await reach("a", JobStatus::pending);
    EXPECT_EQ(events.take(), "a waiting\nb pending\nb PENDING\na pending\na PENDING\n");
    EXPECT_TRUE(jobs->cancel(job("a"), true).ok());
    co_await end_of("a");
    EXPECT_FALSE(exists("b"));
    const std::string seen = events.take();
    EXPECT_EQ(seen,
              "b aborting\nb cancelled 1048576/1048576\nb concluded\nb null\n"
              "a aborting\na cancelled 16777216/16777216\na concluded\n");
  });
}

TEST_F(JobTransactionTest, WhatIsAbandonedNeverHappened) {
  auto all = make(false);
  run([&]() -> Task<> {
    BlockNode& s = *all[0].source;
    Edge& guest = disks->attach(s);
    {
      const auto drained = co_await disks->graph.drain(s);
      const auto together = jobs->new_transaction();
      all[0].job.transaction = all[1].job.transaction = together;
      ManagedJob* a = co_await BackupJob::create(*jobs, all[0]);
      EXPECT_NE(&guest.node(), &s);  // the filter is above it
      all[1].target = all[1].source;
      EXPECT_FALSE((co_await BackupJob::create(*jobs, all[1]).result()).ok());
      co_await jobs->abandon(*a);
    }
    EXPECT_EQ(events.take(), "a created\na aborting\na concluded\na null\n");
    EXPECT_EQ(&guest.node(), &s);
    EXPECT_TRUE(jobs->jobs().empty());
  });
}

}  // namespace
}  // namespace tidemark::test
