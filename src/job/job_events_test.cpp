// The events of jobs and the answers to what users ask of them: each sequence here is what
// qemu-storage-daemon 7.2 does for the same commands.
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {
namespace {

class JobEventsTest : public JobsTest {
 protected:
  BlockNode& source(std::string name, std::uint64_t size = MiB) { return disks->disk(name, size); }
  BlockNode& full_source(std::string name, std::uint64_t size = MiB) {
    BlockNode& node = source(std::move(name), size);
    const Content data = disks->random_bytes(size);
    disks->run(Disks::write_at(node, 0, data));
    return node;
  }
  FaultRule rule(FaultOp op, int os_errno, std::uint64_t count = 0) {
    FaultRule fault;
    fault.op = op;
    fault.os_errno = os_errno;
    fault.count = count;
    return fault;
  }
};

TEST_F(JobEventsTest, ASimpleBackup) {
  BlockNode& s = full_source("s");
  BlockNode& t = source("t");
  run([&]() -> Task<> {
    co_await start(backup("j", s, t));
    co_await end_of("j");
    EXPECT_EQ(events.take(),
              "j created\nj running\nj paused\nj running\nj waiting\nj pending\n"
              "j completed 1048576/1048576\nj concluded\nj null\n");
    EXPECT_FALSE(exists("j"));
  });
}

TEST_F(JobEventsTest, FinalizedAndDismissedByTheUser) {
  BlockNode& s = full_source("s");
  BlockNode& t = source("t");
  run([&]() -> Task<> {
    BackupOptions options = backup("j", s, t);
    options.job.auto_finalize = options.job.auto_dismiss = false;
    ManagedJob& j = *co_await start(options);
    co_await reach("j", JobStatus::pending);
    EXPECT_EQ(events.take(),
              "j created\nj running\nj paused\nj running\nj waiting\nj pending\nj PENDING\n");
    const std::string refused = "Job 'j' in state 'pending' cannot accept command verb '";
    EXPECT_EQ(message_of(jobs->pause(j)), refused + "pause'");
    EXPECT_EQ(message_of(jobs->resume(j)), "Can't resume a job that was not paused");
    EXPECT_EQ(message_of(jobs->complete(j)), refused + "complete'");
    EXPECT_EQ(message_of(jobs->dismiss(j)), refused + "dismiss'");
    EXPECT_EQ(message_of(jobs->set_speed(j, 5)), refused + "set-speed'");
    co_await jobs->finalize("j");
    EXPECT_EQ(events.take(), "j completed 1048576/1048576\nj concluded\n");
    const std::string over = "Job 'j' in state 'concluded' cannot accept command verb '";
    EXPECT_EQ(message_of(jobs->pause(j)), over + "pause'");
    EXPECT_EQ(message_of(jobs->cancel(j, true)), over + "cancel'");
    EXPECT_EQ(message_of(jobs->cancel_block_job(j, false)), over + "cancel'");
    EXPECT_EQ(message_of(co_await jobs->finalize("j").result()), over + "finalize'");
    EXPECT_FALSE(j.info().error);
    EXPECT_EQ(message_of(jobs->dismiss(j)), "no error");
    EXPECT_EQ(events.take(), "j null\n");
    EXPECT_EQ(jobs->find_job("j").error().message(), "Job not found");
    const Error gone = jobs->find_block_job("j").error();
    EXPECT_EQ(gone.message(), "Block job 'j' not found");
    EXPECT_EQ(gone.code(), Errc::device_not_active);
  });
}

// The job has taken effect; its filter goes when the guest lets it.
TEST_F(JobEventsTest, FinalizingDoesNotWaitForAGuestWhoseRequestHangs) {
  full_source("s");
  Hanging& hanging = disks->add_hanging("s");
  BlockNode& s = disks->node("hanging-s");
  BlockNode& t = source("t");
  Edge& guest = disks->attach(s);
  run([&]() -> Task<> {
    BackupOptions options = backup("j", s, t);
    options.job.auto_finalize = false;
    co_await start(options);
    co_await reach("j", JobStatus::pending);
    events.take();
    const auto body = [&](TaskGroup& group) -> Task<> {
      const Content data(4 * KiB);
      const auto write = [&]() -> Task<> { (void)co_await guest.write(0, Buffers::of_const(data)).result(); };
      bool finalized = false;
      const auto finalize = [&]() -> Task<> {
        co_await jobs->finalize("j");
        finalized = true;
      };
      hanging.hang(true);
      group.spawn(write());
      group.spawn(finalize());
      co_await pass(4000);
      EXPECT_TRUE(finalized);
      EXPECT_EQ(events.take(), "");
      hanging.hang(false);
      co_await hanging.cancel_in_flight();
      co_await end_of("j");
      EXPECT_EQ(events.take(), "j completed 1048576/1048576\nj concluded\nj null\n");
      co_await group.join();
      EXPECT_EQ(&guest.node(), &s);
    };
    co_await with_group(disks->process.reactor(), body);
  });
}

TEST_F(JobEventsTest, PausedResumedCancelled) {
  BlockNode& s = full_source("s", 64 * MiB);
  BlockNode& t = source("t", 64 * MiB);
  run([&]() -> Task<> {
    BackupOptions options = backup("j", s, t);
    options.job.speed = 65536;
    ManagedJob& j = *co_await start(options);
    co_await pass(400);
    events.take();
    const std::string refused = "Job 'j' in state 'running' cannot accept command verb '";
    EXPECT_EQ(message_of(jobs->resume(j)), "Can't resume a job that was not paused");
    EXPECT_EQ(message_of(jobs->complete(j)), refused + "complete'");
    EXPECT_EQ(message_of(co_await jobs->finalize("j").result()), refused + "finalize'");
    EXPECT_EQ(message_of(jobs->dismiss(j)), refused + "dismiss'");
    EXPECT_EQ(message_of(jobs->set_speed(j, -1)), "Parameter 'speed' expects a non-negative value");
    EXPECT_FALSE(j.info().busy);
    EXPECT_EQ(message_of(jobs->pause(j)), "no error");
    co_await pass(1);
    EXPECT_EQ(events.take(), "j paused\n");
    EXPECT_TRUE(j.info().paused);
    EXPECT_EQ(message_of(jobs->pause(j)), "Job is already paused");
    const std::string paused = "Job 'j' in state 'paused' cannot accept command verb '";
    EXPECT_EQ(message_of(jobs->complete(j)), paused + "complete'");
    EXPECT_EQ(message_of(jobs->dismiss(j)), paused + "dismiss'");
    EXPECT_EQ(message_of(jobs->resume(j)), "no error");
    co_await pass(1);
    EXPECT_EQ(events.take(), "j running\n");
    EXPECT_EQ(message_of(jobs->resume(j)), "Can't resume a job that was not paused");
    EXPECT_EQ(message_of(jobs->pause(j)), "no error");
    co_await pass(1);
    EXPECT_EQ(message_of(jobs->set_speed(j, 100000)), "no error");
    EXPECT_EQ(message_of(jobs->cancel_block_job(j, false)),
              "The block job for device 'j' is currently paused");
    events.take();
    EXPECT_EQ(message_of(jobs->cancel(j, true)), "no error");
    const std::uint64_t copied = j.info().progress.current;
    co_await end_of("j");
    EXPECT_EQ(events.take(), "j running\nj aborting\nj cancelled " + std::to_string(copied) +
                                 "/67108864\nj concluded\nj null\n");
  });
}

TEST_F(JobEventsTest, CancelledWhenPending) {
  BlockNode& s = full_source("s");
  BlockNode& t = source("t");
  run([&]() -> Task<> {
    BackupOptions options = backup("j", s, t);
    options.job.auto_finalize = options.job.auto_dismiss = false;
    ManagedJob& j = *co_await start(options);
    co_await reach("j", JobStatus::pending);
    events.take();
    EXPECT_EQ(message_of(jobs->cancel(j, true)), "no error");
    co_await end_of("j");
    EXPECT_EQ(events.take(), "j aborting\nj cancelled 1048576/1048576\nj concluded\n");
    EXPECT_EQ(j.info().error, "Operation canceled");
  });
}

TEST_F(JobEventsTest, OnlyWhatGuestsOverwrite) {
  BlockNode& s = full_source("s");
  BlockNode& t = source("t");
  run([&]() -> Task<> {
    BackupOptions options = backup("j", s, t, SyncMode::none);
    ManagedJob& j = *co_await start(options);
    co_await pass(100);
    EXPECT_EQ(events.take(), "j created\nj running\nj paused\nj running\n");
    EXPECT_EQ(j.info().progress.current, 0u);
    EXPECT_EQ(j.info().progress.total, MiB);
    EXPECT_FALSE(j.info().busy);
    EXPECT_EQ(message_of(jobs->cancel_block_job(j, false)), "no error");
    co_await end_of("j");
    EXPECT_EQ(events.take(), "j aborting\nj cancelled 0/1048576\nj concluded\nj null\n");
  });
}

TEST_F(JobEventsTest, ErrorsUnderEachPolicy) {
  struct Case {
    OnError policy;
    bool source;
    int os_errno;
    std::string expected;  // between the start and, if it goes on, the resume
    JobIoStatus io_status;
  };
  const std::string started = "j created\nj running\nj paused\nj running\n";
  const auto fails = [](std::string side, std::string text) {
    return "j error " + side + " report\nj aborting\nj completed 0/1048576 " + text +
           "\nj concluded\n";
  };
  const auto stops = [](std::string side) { return "j error " + side + " stop\nj paused\n"; };
  const std::string eio = "Input/output error", full = "No space left on device";
  using enum OnError;
  const Case cases[] = {
      {report, true, EIO, fails("read", eio), JobIoStatus::ok},
      {report, false, EIO, fails("write", eio), JobIoStatus::ok},
      {report, false, ENOSPC, fails("write", full), JobIoStatus::ok},
      {stop, true, EIO, stops("read"), JobIoStatus::failed},
      {stop, false, EIO, stops("write"), JobIoStatus::failed},
      {stop, false, ENOSPC, stops("write"), JobIoStatus::nospace},
      {OnError::enospc, false, EIO, fails("write", eio), JobIoStatus::ok},
      {OnError::enospc, false, ENOSPC, stops("write"), JobIoStatus::nospace},
      {automatic, true, EIO, fails("read", eio), JobIoStatus::ok},
      {automatic, false, ENOSPC, stops("write"), JobIoStatus::nospace},
  };
  for (const Case& c : cases) {
    restart(3);
    BlockNode& s = full_source("s");
    BlockNode& t = source("t");
    BackupOptions options = backup("j", s, t);
    options.job.auto_dismiss = false;
    options.on_source_error = c.source ? c.policy : report;
    options.on_target_error = c.source ? report : c.policy;
    disks->set_faults(c.source ? "s" : "t",
                      {rule(c.source ? FaultOp::read : FaultOp::write, c.os_errno)});
    run([&]() -> Task<> {
      ManagedJob& j = *co_await start(options);
      co_await pass(1000);
      EXPECT_EQ(events.take(), started + c.expected);
      EXPECT_EQ(j.info().io_status, c.io_status);
      if (j.status() == JobStatus::concluded) co_return;
      // It fails again, then it is put right.
      EXPECT_TRUE(j.info().paused);
      EXPECT_TRUE(jobs->resume(j).ok());
      EXPECT_EQ(j.info().io_status, JobIoStatus::ok);
      co_await pass(1000);
      EXPECT_EQ(events.take(), "j running\n" + c.expected);
      disks->set_faults(c.source ? "s" : "t", {});
      EXPECT_TRUE(jobs->resume(j).ok());
      co_await end_of("j");
      EXPECT_EQ(events.take(),
                "j running\nj waiting\nj pending\nj completed 1048576/1048576\nj concluded\n");
      const Content copied = co_await Disks::read_all(t);
      const Content wanted = co_await Disks::read_all(s);
      EXPECT_EQ(copied == wanted, true);
    });
    events.take();
  }
}

}  // namespace
}  // namespace tidemark::test
