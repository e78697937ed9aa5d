// Backups that stage: a guest waits for its own disk and nothing else, whatever the target does, and
// what the target gets is the point all the same.
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t disk_size = 24 * MiB + 20 * KiB;
constexpr std::uint64_t ms = 1'000'000;

class StagingTest : public JobsTest {
 protected:
  void make(std::uint64_t seed) {
    restart(seed);
    source = &disks->disk("s", disk_size);
    target = &disks->disk("t", disk_size);
    content = disks->fill(*source);
    disks->fill(*target);
  }
  // Every write to the target takes so long.
  void slow_target(std::uint64_t latency_ns, std::vector<FaultRule> more = {}) {
    FaultRule slow;
    slow.latency_ns = latency_ns;
    more.insert(more.begin(), slow);
    disks->set_faults("t", std::move(more));
  }
  BackupOptions staged(std::uint64_t memory = 4 * MiB, std::uint64_t budget = 64 * MiB) {
    BackupOptions options = backup("j", *source, *target);
    options.staging.memory = memory;
    options.staging.budget = budget;
    options.staging.directory = "/";
    return options;
  }
  Task<> write(Edge& guest, std::uint64_t offset, std::uint64_t length) {
    Content data(length, std::byte{0x5a});
    co_await guest.write(offset, Buffers::of_const(data));
  }
  // The copy stands still, and guests wait for the target.
  BackupOptions throttling() {
    BackupOptions options = staged(4 * MiB, 4 * MiB);
    options.staging.spill = false;
    options.staging.directory.clear();
    options.staging.on_full = OnStagingFull::throttle;
    options.job.speed = 1;
    return options;
  }
  Task<> write_all(Edge& guest, Range range) {
    for (std::uint64_t at = range.offset; at < range.end(); at += 64 * KiB) co_await write(guest, at, 64 * KiB);
  }
  Task<JobStaging> staging() {
    const auto held = jobs->jobs().front();
    const JobInfo info = co_await jobs->info(held);
    co_return info.staging.value_or(JobStaging{});
  }
  Instant now() { return disks->process.reactor().now(); }
  std::string error_of_job() { return job("j").info().error.value_or(""); }
  Task<bool> target_equals(const Content& point) {
    const Content copied = co_await Disks::read_all(disks->node("t"));
    co_return copied == point;
  }
  // A backup beside a guest that does whatever guests do.
  Task<> backup_beside(Guest& guest, BackupOptions options) {
    const auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(guest.work_on(12));
      co_await pass(5);
      Content point;
      {
        const auto drained = co_await disks->graph.drain(*source);
        ManagedJob* started = co_await BackupJob::create(*jobs, options);
        point = co_await Disks::read_all(disks->node("s"));
        jobs->start(*started);
      }
      while (exists("j") && job("j").status() != JobStatus::concluded) {
        if (job("j").info().paused) (void)jobs->resume(job("j"));
        co_await pass(1);
      }
      guest.stop();
      co_await group.join();
      const bool same = co_await target_equals(point);
      EXPECT_TRUE(same);
    };
    co_await with_group(disks->process.reactor(), both);
  }

  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  Content content;
};

TEST_F(StagingTest, TheTargetGetsThePointHoweverSlowItIs) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    make(seed);
    Prng random(seed);
    FaultRule jitter;
    jitter.jitter_ns = 300'000;
    disks->set_faults("s", {jitter});
    FaultRule refuses;
    refuses.op = FaultOp::write;
    refuses.one_in = 8;
    refuses.os_errno = random.chance(1, 2) ? EIO : ENOSPC;
    if (seed % 3 == 0)
      slow_target(random.below(40) * ms, {refuses});
    else
      slow_target(random.below(40) * ms);
    Guest guest(*disks, disks->attach(*source), content);
    BackupOptions options = staged();
    options.on_target_error = random.chance(1, 2) ? OnError::ignore : OnError::stop;
    options.staging.on_full = random.chance(1, 2) ? OnStagingFull::throttle : OnStagingFull::fail;
    options.staging.spill = options.staging.on_full == OnStagingFull::fail || random.chance(1, 2);
    if (!options.staging.spill) options.staging.directory.clear();
    options.job.speed = random.chance(1, 3) ? 64 * MiB : 0;
    run([&]() -> Task<> { co_await backup_beside(guest, options); });
    EXPECT_EQ(guest.failed(), 0u) << "seed " << seed;
    EXPECT_GT(guest.requests(), 50u) << "seed " << seed;
    EXPECT_EQ(disks->content_of(*source) == guest.content, true) << "seed " << seed;
    EXPECT_EQ(events.take().find("aborting"), std::string::npos) << "seed " << seed;
  }
}

TEST_F(StagingTest, OnlyWhatIsAllocatedAtTheTop) {
  // A memory disk has no layer below; what it has not is unallocated all the same for the point.
  for (std::uint64_t seed = 20; seed < 24; ++seed) {
    make(seed);
    slow_target(5 * ms);
    Guest guest(*disks, disks->attach(*source), content);
    BackupOptions options = staged();
    options.sync = SyncMode::top;
    run([&]() -> Task<> { co_await backup_beside(guest, options); });
    EXPECT_EQ(guest.failed(), 0u);
  }
}

TEST_F(StagingTest, AGuestDoesNotWaitForATargetThatHangs) {
  make(2);
  slow_target(600'000 * ms);
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    co_await start(staged());
    co_await pass(10);
    const Instant before = now();
    for (std::uint64_t i = 0; i < 1500; ++i) co_await write(guest, i * 16 * KiB, 4 * KiB);
    EXPECT_LT(now() - before, std::chrono::seconds(1));
    const JobStaging there = co_await staging();
    // The copy has the first of the disk already, which costs nothing.
    EXPECT_GT(there.staged, 1 * MiB);
    EXPECT_LE(there.staged, 6 * MiB);
    EXPECT_GT(there.spilled, 0u);
    EXPECT_EQ(there.budget, 64 * MiB);
    // Nor does drain.
    { const auto drained = co_await disks->graph.drain(*source); }
    EXPECT_LT(now() - before, std::chrono::seconds(1));
    (void)jobs->cancel(job("j"), true);
  });
}

TEST_F(StagingTest, WhenStagingIsFullTheBackupFails) {
  for (const bool spill : {true, false}) {
    make(3);
    slow_target(60'000 * ms);
    Edge& guest = disks->attach(*source);
    run([&]() -> Task<> {
      BackupOptions options = staged(4 * MiB, spill ? 6 * MiB : 64 * MiB);
      options.staging.spill = spill;
      if (!spill) options.staging.directory.clear();
      options.job.auto_dismiss = false;
      options.perf.max_workers = 2;
      co_await start(options);
      co_await pass(10);
      const Instant before = now();
      for (std::uint64_t at = 0; at < 22 * MiB; at += 64 * KiB) co_await write(guest, at, 64 * KiB);
      EXPECT_LT(now() - before, std::chrono::seconds(1));
      co_await end_of("j");
      const std::string expected =
          spill ? "staging is full: 6 MiB of data that the guest has overwritten wait for the target; make "
                  "staging-budget larger, or have on-staging-full=throttle"
                : "staging is full: 4 MiB of data that the guest has overwritten wait for the target; make "
                  "staging-memory larger, or allow spill";
      EXPECT_EQ(error_of_job(), expected);
    });
  }
}

TEST_F(StagingTest, OrTheGuestIsThrottled) {
  make(4);
  slow_target(20 * ms);
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = staged(4 * MiB, 4 * MiB);
    options.staging.spill = false;
    options.staging.directory.clear();
    options.staging.on_full = OnStagingFull::throttle;
    options.job.auto_dismiss = false;
    options.job.speed = 1 * MiB;
    co_await start(options);
    for (std::uint64_t at = disk_size - 20 * KiB; at >= 64 * KiB; at -= 64 * KiB)
      co_await write(guest, at - 64 * KiB, 64 * KiB);
    // A guest that waits for room does not keep a drain waiting, nor does a paused job the guest.
    (void)jobs->pause(job("j"));
    {
      const auto drained = co_await disks->graph.drain(*source);
    }
    (void)jobs->resume(job("j"));
    (void)jobs->set_speed(job("j"), 0);
    co_await end_of("j");
    EXPECT_EQ(error_of_job(), "");
    const bool same = co_await target_equals(content);
    EXPECT_TRUE(same);
  });
}

TEST_F(StagingTest, APausedJobDoesNotKeepAThrottledGuest) {
  make(5);
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = staged(4 * MiB, 4 * MiB);
    options.staging.on_full = OnStagingFull::throttle;
    options.job.speed = 1;
    co_await start(options);
    (void)jobs->pause(job("j"));
    co_await pass(10);
    for (std::uint64_t at = 0; at < 20 * MiB; at += 64 * KiB) co_await write(guest, at, 64 * KiB);
    (void)jobs->resume(job("j"));
    (void)jobs->set_speed(job("j"), 0);
    co_await end_of("j");
    const bool same = co_await target_equals(content);
    EXPECT_TRUE(same);
  });
}

// What the target refuses is read again, but for what a guest has overwritten meanwhile.
TEST_F(StagingTest, WhatTheTargetRefusesIsNotStaged) {
  make(12);
  FaultRule full;
  full.op = FaultOp::write;
  full.os_errno = ENOSPC;
  slow_target(5 * ms, {full});
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = staged(4 * MiB, 4 * MiB);
    options.staging.spill = false;
    options.staging.directory.clear();
    options.on_target_error = OnError::ignore;
    co_await start(options);
    for (int i = 0; i < 100; ++i) {
      co_await pass(30);
      const JobStaging there = co_await staging();
      EXPECT_EQ(there.staged, 0u);
    }
    for (std::uint64_t i = 0; i < 256; ++i) {
      co_await write(guest, disk_size - 20 * KiB - i * 64 * KiB, 4 * KiB);
      if (i % 8 == 0) co_await pass(7);
    }
    co_await pass(1000);
    const JobStaging there = co_await staging();
    EXPECT_GT(there.staged, 0u);
    EXPECT_LE(there.staged, 1 * MiB);
    slow_target(0);
    const bool ended = co_await ends_within("j", std::chrono::seconds(30));
    EXPECT_TRUE(ended);
    const bool same = co_await target_equals(content);
    EXPECT_TRUE(same);
  });
}

// The last that is copied is what a guest waited for, at a target that takes its time.
TEST_F(StagingTest, WhatRelievesAGuestMayBeTheLast) {
  make(10);
  FaultRule stuck;
  stuck.op = FaultOp::write;
  stuck.range = Range{1 * MiB, 6 * MiB};
  stuck.count = 1;
  stuck.latency_ns = 3000 * ms;
  disks->set_faults("t", {stuck});
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    const auto body = [&](TaskGroup& group) -> Task<> {
      co_await start(throttling());
      co_await pass(10);
      group.spawn(write_all(guest, {1 * MiB, 6 * MiB}));
      co_await pass(1000);
      (void)jobs->set_speed(job("j"), 0);
      co_await pass(1000);
      const JobProgress progress = job("j").info().progress;
      EXPECT_EQ(progress.total - progress.current, 64 * KiB);
      const bool ended = co_await ends_within("j", std::chrono::seconds(30));
      EXPECT_TRUE(ended);
      const bool same = co_await target_equals(content);
      EXPECT_TRUE(same);
    };
    co_await with_group(disks->process.reactor(), body);
  });
}

TEST_F(StagingTest, AndTheJobEndsWhenTheTargetHangsThen) {
  for (const bool fails : {false, true}) {
    make(11);
    Hanging& hanging = disks->add_hanging("t");
    target = &disks->node("hanging-t");
    FaultRule broken;
    broken.op = FaultOp::read;
    broken.range = Range{20 * MiB, 4 * KiB};
    broken.os_errno = EIO;
    const Content data(64 * KiB, std::byte{1});
    disks->run(Disks::write_at(disks->node("s"), 20 * MiB, data));
    if (fails) disks->set_faults("s", {broken});
    Edge& guest = disks->attach(*source);
    run([&]() -> Task<> {
      const auto body = [&](TaskGroup& group) -> Task<> {
        co_await start(throttling());
        co_await pass(10);
        hanging.hang(true);
        group.spawn(write_all(guest, {1 * MiB, 6 * MiB}));
        co_await pass(1000);
        EXPECT_EQ(hanging.waiting(), 1u);
        hanging.hang(false);
        (void)jobs->set_speed(job("j"), 0);
        co_await pass(1000);
        if (!fails) (void)jobs->cancel(job("j"), true);
        const bool ended = co_await ends_within("j", std::chrono::seconds(5));
        EXPECT_TRUE(ended) << fails;
      };
      co_await with_group(disks->process.reactor(), body);
    });
  }
}

// All that is staged was on its way when a guest began to wait, and comes back when the job is paused for the target's error.
TEST_F(StagingTest, WhatTheTargetRefusesRelievesAGuestLater) {
  make(13);
  content = disks->random_bytes(disk_size);
  disks->run(Disks::write_at(disks->node("s"), 0, content));
  FaultRule refuses;
  refuses.op = FaultOp::write;
  refuses.latency_ns = 1000 * ms;
  refuses.os_errno = ENOSPC;
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = throttling();
    options.on_target_error = OnError::stop;
    const auto body = [&](TaskGroup& group) -> Task<> {
      co_await start(options);
      const Range staged_first{1 * MiB, 4 * MiB};
      co_await write_all(guest, staged_first);
      disks->set_faults("t", {refuses});
      (void)jobs->set_speed(job("j"), 0);
      co_await pass(500);
      bool done = false;
      const auto last = [&]() -> Task<> {
        co_await write(guest, 23 * MiB, 64 * KiB);
        done = true;
      };
      group.spawn(last());
      co_await reach("j", JobStatus::paused);
      EXPECT_FALSE(done);
      slow_target(0);
      co_await pass(3000);
      EXPECT_TRUE(done);
      (void)jobs->resume(job("j"));
      const bool ended = co_await ends_within("j", std::chrono::seconds(30));
      EXPECT_TRUE(ended);
      const bool same = co_await target_equals(content);
      EXPECT_TRUE(same);
    };
    co_await with_group(disks->process.reactor(), body);
  });
}

TEST_F(StagingTest, OnlyWhatWillBeOverwrittenIsRead) {
  make(6);
  slow_target(600'000 * ms);
  Edge& guest = disks->attach(*source);
  const Content data(16 * KiB, std::byte{1});
  run([&]() -> Task<> {
    co_await Disks::write_at(disks->node("s"), 20 * MiB, data);
    co_await start(staged());
    co_await pass(100);  // until the copy's requests hang
    const auto& read = source->stats().read;
    const auto bytes = read.bytes, operations = read.operations;
    const auto body = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < 8; ++i) group.spawn(write(guest, 20 * MiB + 8 * KiB, 4 * KiB));
      co_await group.join();
    };
    co_await with_group(disks->process.reactor(), body);
    EXPECT_EQ(read.bytes - bytes, 4 * KiB);
    EXPECT_EQ(read.operations - operations, 1u);
    // Less than a unit is read as one; zeroes and what is staged already cost nothing.
    co_await write(guest, 20 * MiB + 512, 512);
    EXPECT_EQ(read.bytes - bytes, 8 * KiB);
    co_await write(guest, 20 * MiB + 1024, 512);
    EXPECT_EQ(read.bytes - bytes, 8 * KiB);
    const JobStaging there = co_await staging();
    EXPECT_EQ(there.staged, 8 * KiB);
    (void)jobs->cancel(job("j"), true);
  });
}

TEST_F(StagingTest, ReadErrorsFailTheBackupAndNotTheGuest) {
  make(7);
  slow_target(100 * ms);
  FaultRule broken;
  broken.op = FaultOp::read;
  broken.range = Range{20 * MiB, 4 * KiB};
  broken.os_errno = EIO;
  disks->set_faults("s", {broken});
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = staged();
    options.job.auto_dismiss = false;
    co_await start(options);
    co_await write(guest, 20 * MiB, 512);
    co_await end_of("j");
    EXPECT_EQ(error_of_job(), "Input/output error");
  });
}

TEST_F(StagingTest, AScratchFileThatCannotBeMade) {
  make(8);
  slow_target(60'000 * ms);
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = staged();
    options.staging.directory = "/nowhere";
    const Result<ManagedJob*> refused = co_await start(options).result();
    EXPECT_EQ(refused.ok() ? "" : refused.error().message(),
              "no scratch file for staging can be made: open '/nowhere': No such file or directory; choose "
              "another spill-directory, or spill=off");
    // The usual place is only looked for when it is needed.
    options.staging.directory.clear();
    options.job.auto_dismiss = false;
    co_await start(options);
    for (std::uint64_t at = 0; at < 24 * MiB; at += 64 * KiB) co_await write(guest, at, 64 * KiB);
    co_await end_of("j");
    EXPECT_EQ(error_of_job(),
              "staging is full: 4 MiB of data that the guest has overwritten wait for the target; no scratch "
              "file for staging can be made: open '/var/tmp': No such file or directory; choose another "
              "spill-directory, or spill=off");
  });
}

TEST_F(StagingTest, ATargetThatShowsTheSourceIsWaitedFor) {
  make(9);
  slow_target(50 * ms);
  Edge& guest = disks->attach(*source);
  run([&]() -> Task<> {
    BackupOptions options = staged();
    options.sync = SyncMode::none;
    co_await start(options);
    const Instant before = now();
    co_await write(guest, 20 * MiB, 4 * KiB);
    EXPECT_GE(now() - before, std::chrono::milliseconds(50));
    const auto held = jobs->jobs().front();
    const JobInfo info = co_await jobs->info(held);
    EXPECT_FALSE(info.staging);
    (void)jobs->cancel(job("j"), true);
  });
}

}  // namespace
}  // namespace tidemark::test
