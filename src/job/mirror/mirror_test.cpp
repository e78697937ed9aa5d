// Mirrors while a guest writes: at the end the target is what the disk is, whatever was written when, and the
// guest never notices but by its disk being another one.
#include "tests/support/test_mirrors.hpp"

namespace tidemark::test {
namespace {

TEST_F(MirrorTest, ThePivotGivesTheGuestADiskWithAllItHasWritten) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    make(seed, seed % 3 == 0 ? 2 * ms : 300'000);
    MirrorOptions options = mirror(SyncMode::full, seed % 2 ? CopyMode::background : CopyMode::write_blocking);
    options.granularity = seed % 4 == 0 ? 4096 : 0;
    options.buf_size = seed % 5 == 0 ? 256 * KiB : 0;
    options.target_is_zero = false;
    run_with_guest([&]() -> Task<> {
      co_await pass(2);
      co_await start(options);
      co_await pivot_beside_guest();
      EXPECT_EQ(&disks->roots[0]->node(), target);
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
    EXPECT_GT(guest->requests(), 20u);
    EXPECT_TRUE(source->parents().empty());
    const std::string told = events.take();
    EXPECT_NE(told.find("j ready\nj ready "), std::string::npos);
    EXPECT_NE(told.find("j waiting\nj pending\nj completed "), std::string::npos) << told;
  }
}

TEST_F(MirrorTest, TheModeChangesWhileItRuns) {
  for (std::uint64_t seed = 31; seed < 43; ++seed) {
    make(seed, seed % 2 ? 1 * ms : 300'000);
    Prng random(seed);
    run_with_guest([&]() -> Task<> {
      co_await start(mirror());
      for (int i = 0; i < 30; ++i) {
        mirror_job().set_copy_mode(either_mode(random));
        co_await pass(1 + random.below(4));
      }
      mirror_job().set_copy_mode(either_mode(random));
      co_await pivot_beside_guest();
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
  }
}

// Guests do not do that, but each order of the two must be the target's, too.
TEST_F(MirrorTest, OverlappingWritesEndTheSameInBoth) {
  for (std::uint64_t seed = 45; seed < 50; ++seed) {
    make(seed, 600'000);
    Edge& writer = disks->attach(*source);
    const auto write = [&](std::uint64_t own) -> Task<> {
      Prng random(own);
      for (int i = 0; i < 200; ++i) {
        const Content data(512 * (1 + random.below(300)), static_cast<std::byte>(random()));
        co_await writer.write(512 * random.below(300), Buffers::of_const(data));
      }
    };
    const auto all = [&](TaskGroup& group) -> Task<> {
      for (std::uint64_t i = 0; i < 6; ++i) group.spawn(write(10 * seed + i));
      Prng random(seed);
      while (group.running() != 0) {
        mirror_job().set_copy_mode(either_mode(random));
        co_await pass(1 + random.below(3));
      }
      co_await group.join();
    };
    run([&]() -> Task<> {
      MirrorOptions options = mirror();
      options.granularity = 4096;
      co_await start(options);
      co_await with_group(disks->process.reactor(), all);
      co_await reach("j", JobStatus::ready);
      EXPECT_TRUE(jobs->cancel_block_job(job("j"), false).ok());
      co_await end_of("j");
      const bool same = co_await equal();
      EXPECT_TRUE(same) << "seed " << seed;
    });
  }
}

// One of each kind for the same place, both under way when the mode changes.
TEST_F(MirrorTest, AWriteFromBeforeTheChangeOfModeIsNotForgotten) {
  make(44, 600'000);
  Edge& writer = disks->attach(*source);
  const auto write = [&](std::uint64_t offset, std::byte value) -> Task<> {
    const Content data(64 * KiB, value);
    co_await writer.write(offset, Buffers::of_const(data));
  };
  run([&]() -> Task<> {
    co_await start(mirror());
    co_await reach("j", JobStatus::ready);
    for (std::uint64_t i = 0; i < 90; ++i) {
      const auto both = [&](TaskGroup& group) -> Task<> {
        mirror_job().set_copy_mode(CopyMode::background);
        group.spawn(write(i * 64 * KiB, std::byte{1}));
        co_await disks->process.reactor().sleep(Duration(disks->random.below(300'000)));
        mirror_job().set_copy_mode(CopyMode::write_blocking);
        group.spawn(write(i * 64 * KiB, std::byte{2}));
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    }
    EXPECT_TRUE(jobs->cancel_block_job(job("j"), false).ok());
    co_await end_of("j");
    const bool same = co_await equal();
    EXPECT_TRUE(same);
  });
}

TEST_F(MirrorTest, CancelledOnceReadyItLeavesACopyOfThatMoment) {
  for (std::uint64_t seed = 50; seed < 56; ++seed) {
    make(seed);
    const CopyMode mode = seed % 2 ? CopyMode::background : CopyMode::write_blocking;
    NodeBitmap& bitmap = add_bitmap(seed % 3 ? 64 * KiB : 4096);
    MirrorOptions options = by_bitmap(SyncMode::full, BitmapMode::on_success);
    options.copy_mode = mode;
    run_with_guest([&]() -> Task<> {
      co_await start(options);
      co_await reach("j", JobStatus::ready);
      co_await pass(5);
      EXPECT_TRUE(jobs->cancel_block_job(job("j"), false).ok());
      co_await end_of("j");
      EXPECT_EQ(&disks->roots[0]->node(), source);
      co_await pass(5);
      const std::uint64_t lost = co_await uncovered(bitmap);
      EXPECT_EQ(lost, 0u) << "seed " << seed;
      EXPECT_FALSE(bitmap.busy());
      // What was written since is copied by another one, and no more.
      co_await start(by_bitmap(SyncMode::incremental, BitmapMode::on_success));
      co_await pivot_beside_guest();
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
    EXPECT_NE(events.take().find("j completed "), std::string::npos);
  }
}

TEST_F(MirrorTest, AnAbortedMirrorGoesOnFromWhereItWas) {
  for (std::uint64_t seed = 60; seed < 70; ++seed) {
    make(seed);
    NodeBitmap& bitmap = add_bitmap(seed % 2 ? 64 * KiB : 16 * KiB);
    run_with_guest([&]() -> Task<> {
      MirrorOptions options = by_bitmap(SyncMode::full, BitmapMode::always);
      options.job.speed = 200 * MiB;
      options.copy_mode = seed % 3 ? CopyMode::background : CopyMode::write_blocking;
      co_await start(options);
      for (int i = 0; i < 4; ++i) {
        co_await pass(4 + seed % 7);
        (void)jobs->cancel(job("j"), true);
        co_await end_of("j");
        const std::uint64_t lost = co_await uncovered(bitmap);
        EXPECT_EQ(lost, 0u) << "seed " << seed << " round " << i;
        MirrorOptions next = by_bitmap(SyncMode::bitmap, BitmapMode::always);
        next.job.speed = i == 3 ? 0 : 200 * MiB;
        co_await start(next);
      }
      co_await pivot_beside_guest();
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
  }
}

TEST_F(MirrorTest, AResumedMirrorCopiesOnlyTheRest) {
  make(71, 0);
  NodeBitmap& bitmap = add_bitmap();
  const Content data(disk_size, std::byte{7});
  disks->run(Disks::write_at(*source, 0, data));
  run([&]() -> Task<> {
    MirrorOptions options = by_bitmap(SyncMode::full, BitmapMode::always);
    options.job.speed = 10 * MiB;
    co_await start(options);
    co_await pass(250);
    (void)jobs->cancel(job("j"), true);
    co_await end_of("j");
    const std::uint64_t left = bitmap.dirty_bytes();
    EXPECT_GT(left, 0u);
    EXPECT_LT(left, disk_size - MiB);
    const std::uint64_t written = disks->node("t").stats().write.bytes;
    EXPECT_GE(written, disk_size - left);
    co_await start(by_bitmap(SyncMode::bitmap, BitmapMode::always));
    co_await reach("j", JobStatus::ready);
    EXPECT_EQ(disks->node("t").stats().write.bytes - written, left);
    const bool same = co_await equal();
    EXPECT_TRUE(same);
    // What is written meanwhile is in the target, too.
    const Content more(4096, std::byte{8});
    co_await disks->roots[0]->write(MiB, Buffers::of_const(more));
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    co_await end_of("j");
    EXPECT_EQ(bitmap.dirty_bytes(), 0u);
  });
}

TEST_F(MirrorTest, BitmapModesWhenItFails) {
  for (const BitmapMode mode : {BitmapMode::on_success, BitmapMode::never, BitmapMode::always}) {
    make(72, 0);
    NodeBitmap& bitmap = add_bitmap();
    bitmap.bits().set({0, MiB});
    const Content data(MiB, std::byte{7});
    disks->run(Disks::write_at(*source, 0, data));
    FaultRule fault;
    fault.op = FaultOp::write;
    fault.range = Range{512 * KiB, 64 * KiB};
    fault.os_errno = EIO;
    disks->set_faults("t", {fault});
    run([&]() -> Task<> {
      MirrorOptions options = by_bitmap(SyncMode::bitmap, mode);
      options.buf_size = 64 * KiB;
      co_await start(options);
      co_await end_of("j");
    });
    EXPECT_EQ(bitmap.dirty_bytes(), mode == BitmapMode::always ? 512 * KiB : 1 * MiB) << to_string(mode);
    EXPECT_FALSE(bitmap.busy());
    EXPECT_NE(events.take().find("j error write report\n"), std::string::npos);
  }
}

TEST_F(MirrorTest, CancelledAtAnyMomentTheGuestsDiskIsWhole) {
  for (std::uint64_t seed = 80; seed < 110; ++seed) {
    make(seed);
    Prng random(seed);
    const std::uint64_t after = random.below(60);
    run_with_guest([&]() -> Task<> {
      const MirrorOptions options = mirror(SyncMode::full, either_mode(random));
      co_await start(options);
      co_await pass(after);
      if (exists("j") && random.chance(1, 3)) (void)jobs->complete(job("j"));
      co_await pass(random.below(3));
      if (exists("j")) (void)jobs->cancel(job("j"), true);
      co_await end_of("j");
      co_await pass(2);
    });
    BlockNode& there = disks->roots[0]->node();
    EXPECT_TRUE(of(there) == guest->content) << "seed " << seed;
    EXPECT_TRUE(&there == source || &there == target);
    events.take();
  }
}

TEST_F(MirrorTest, ErrorsAreToldAndTriedAgain) {
  for (std::uint64_t seed = 120; seed < 128; ++seed) {
    make(seed);
    FaultRule jitter, fails;
    jitter.jitter_ns = 300'000;
    fails.one_in = 6;
    fails.os_errno = EIO;
    fails.op = FaultOp::write;
    disks->set_faults("t", {jitter, fails});
    MirrorOptions options = mirror(SyncMode::full, seed % 2 ? CopyMode::background : CopyMode::write_blocking);
    options.on_target_error = seed % 3 ? OnError::ignore : OnError::stop;
    run_with_guest([&]() -> Task<> {
      co_await start(options);
      for (int i = 0; i < 200 && exists("j"); ++i) {
        if (job("j").info().paused) (void)jobs->resume(job("j"));
        if (i == 150) disks->set_faults("t", {jitter});
        co_await pass(5);
      }
      co_await pivot_beside_guest();
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
    EXPECT_NE(events.take().find("j error write "), std::string::npos);
  }
}

// The next flush would succeed all the same.
TEST_F(MirrorTest, WhatTheTargetHasLostWithAFlushIsCopiedAgain) {
  make(130, 0);
  FaultRule fails;
  fails.op = FaultOp::flush;
  fails.os_errno = EIO;
  fails.count = 1;
  disks->set_faults("t", {fails});
  MirrorOptions options = mirror();
  options.on_target_error = OnError::stop;
  run_with_guest([&]() -> Task<> {
    co_await start(options);
    while (!job("j").info().paused) co_await pass(1);
    const Content lost(disk_size, std::byte{0xee});      // all of it was written since the last one
    co_await Disks::write_at(disks->node("t"), 0, lost);
    (void)jobs->resume(job("j"));
    co_await pivot_beside_guest();
  });
  EXPECT_TRUE(of(*target) == guest->content);
}

TEST_F(MirrorTest, AGuestDoesNotWaitForATargetThatHangs) {
  make(2, 0);
  Edge& writer = disks->attach(*source);
  run([&]() -> Task<> {
    co_await start(mirror());
    co_await reach("j", JobStatus::ready);
    FaultRule hangs;
    hangs.latency_ns = 600'000 * ms;
    disks->set_faults("t", {hangs});
    const Instant before = disks->process.reactor().now();
    const Content data(4096, std::byte{1});
    for (std::uint64_t i = 0; i < 200; ++i) {
      co_await writer.write(i * 16 * KiB, Buffers::of_const(data));
      if (i % 20 == 0) co_await pass(1);
    }
    { const auto drained = co_await disks->graph.drain(*source); }
    EXPECT_LT(disks->process.reactor().now() - before, std::chrono::milliseconds(20));
    // Not even when the mirror is to end.
    co_await pass(100);
    EXPECT_TRUE(jobs->complete(job("j")).ok());
    for (std::uint64_t i = 0; i < 2000; ++i) {
      const Instant began = disks->process.reactor().now();
      co_await writer.write(i * 3 * KiB, Buffers::of_const(data));
      EXPECT_LT(disks->process.reactor().now() - began, std::chrono::seconds(2));
      co_await pass(1);
    }
    EXPECT_EQ(job("j").status(), JobStatus::ready);
    disks->set_faults("t", {});
  });
}

TEST_F(MirrorTest, HeldBackAtItsEndItGoesOnWithTheGuest) {
  for (std::uint64_t seed = 140; seed < 146; ++seed) {
    make(seed);
    MirrorOptions options = mirror();
    options.job.auto_finalize = false;
    run_with_guest([&]() -> Task<> {
      co_await start(options);
      co_await reach("j", JobStatus::ready);
      EXPECT_TRUE(jobs->complete(job("j")).ok());
      co_await reach("j", JobStatus::pending);
      const std::uint64_t before = guest->requests();
      co_await pass(30);
      EXPECT_GT(guest->requests(), before + 20);
      EXPECT_EQ(&disks->roots[0]->node() == source, false);
      co_await jobs->finalize("j");
      EXPECT_EQ(&disks->roots[0]->node(), target);
      co_await pass(5);
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
  }
}

TEST_F(MirrorTest, WriteBlockingTheTwoAreEqualWhenAWriteHasEnded) {
  make(150, 100'000);
  Edge& writer = disks->attach(*source);
  run([&]() -> Task<> {
    co_await start(mirror(SyncMode::full, CopyMode::write_blocking));
    EXPECT_FALSE(synced());
    co_await reach("j", JobStatus::ready);
    co_await pass(5);
    EXPECT_TRUE(synced());
    Prng random(5);
    for (int i = 0; i < 50; ++i) {
      const Content data = disks->random_bytes(512 * (1 + random.below(300)));
      const std::uint64_t at = random.below(disk_size - data.size());
      co_await writer.write(at, Buffers::of_const(data));
      const Range zeroes{random.below(disk_size - MiB), random.below(MiB)};
      co_await writer.write_zeroes(zeroes);
      EXPECT_TRUE(synced());
      const Content now = co_await Disks::read_all(disks->node("s"));
      const Content then = co_await Disks::read_all(disks->node("t"));
      const bool same = now == then;
      EXPECT_TRUE(same);
    }
    mirror_job().set_copy_mode(CopyMode::background);
    EXPECT_FALSE(synced());
  });
}

// It gains on them one by one; more at a time would only stand in the device's queue before the guest's.
TEST_F(MirrorTest, WhatGuestsHaveWrittenIsCopiedOneByOneWhileTheyGoOn) {
  make(155, 100'000);
  Edge& writer = disks->attach(*source);
  run([&]() -> Task<> {
    co_await start(mirror());
    co_await reach("j", JobStatus::ready);
    EXPECT_TRUE(jobs->pause(job("j")).ok());
    co_await pass(5);
    const Content data(4096, std::byte{7});
    for (std::uint64_t i = 0; i < 45; ++i) co_await writer.write(i * 128 * KiB, Buffers::of_const(data));
    EXPECT_TRUE(jobs->resume(job("j")).ok());
    std::uint64_t most = 0;
    for (std::uint64_t i = 0; i < 100; ++i) {
      co_await writer.write(6 * MiB, Buffers::of_const(data));
      co_await disks->process.reactor().sleep(std::chrono::microseconds(200));
      most = std::max(most, target->in_flight());
    }
    EXPECT_LE(most, 2u);
    EXPECT_TRUE(jobs->cancel_block_job(job("j"), false).ok());
    co_await end_of("j");
    const bool same = co_await equal();
    EXPECT_TRUE(same);
  });
}

TEST_F(MirrorTest, SyncNoneCopiesWhatIsWrittenFromThenOn) {
  make(160, 0);
  Edge& writer = disks->attach(*source);
  run([&]() -> Task<> {
    events.take();
    co_await start(mirror(SyncMode::none));
    co_await reach("j", JobStatus::ready);
    EXPECT_EQ(events.take(), "j created\nj running\nj ready\nj ready 0/0\n");
    const std::uint64_t written = disks->node("t").stats().write.bytes;
    const Content data(4096, std::byte{1});
    co_await writer.write(MiB, Buffers::of_const(data));
    co_await pass(100);
    EXPECT_EQ(disks->node("t").stats().write.bytes - written, 64 * KiB);
    EXPECT_TRUE(jobs->cancel_block_job(job("j"), false).ok());
    EXPECT_EQ(message_of(jobs->complete(job("j"))), "The active block job 'j' cannot be completed");
    co_await end_of("j");
    EXPECT_EQ(events.take(), "j waiting\nj pending\nj completed 65536/65536\nj concluded\nj null\n");
    EXPECT_EQ(&writer.node(), source);
  });
}

// As one of several actions of a transaction, of which another fails.
TEST_F(MirrorTest, AbandonedBeforeItIsStartedItLeavesNothing) {
  for (std::uint64_t seed = 70; seed < 76; ++seed) {
    make(seed);
    (void)events.take();
    NodeBitmap& bitmap = add_bitmap();
    const Content before = of(*target);
    const std::size_t nodes = disks->graph.nodes().size();
    run_with_guest([&]() -> Task<> {
      co_await pass(5);
      {
        const auto still = co_await disks->graph.drain(*source);
        ManagedJob* made = co_await MirrorJob::create(*jobs, by_bitmap(SyncMode::bitmap, BitmapMode::always));
        EXPECT_TRUE(bitmap.busy());
        const std::uint64_t requests = guest->requests();
        co_await pass(20);
        EXPECT_EQ(guest->requests(), requests);
        co_await jobs->abandon(*made);
      }
      EXPECT_FALSE(bitmap.busy());
      EXPECT_EQ(disks->graph.nodes().size(), nodes);
      EXPECT_TRUE(target->parents().empty());
      EXPECT_EQ(&disks->roots[0]->node(), source);
      EXPECT_EQ(events.take(), "j created\nj aborting\nj concluded\nj null\n");
      const Content now = co_await Disks::read_all(*target);
      EXPECT_TRUE(now == before);
      co_await start(by_bitmap(SyncMode::full, BitmapMode::always));
      co_await pivot_beside_guest();
    });
    EXPECT_TRUE(of(*target) == guest->content) << "seed " << seed;
  }
}

TEST_F(MirrorTest, ATargetThatIsZeroIsNotZeroed) {
  for (const bool is_zero : {true, false}) {
    restart(170);
    source = &disks->disk("s", disk_size);
    target = &disks->disk("t", disk_size);
    Edge& writer = disks->attach(*source);
    run([&]() -> Task<> {
      const Content data(64 * KiB, std::byte{1});
      co_await writer.write(MiB, Buffers::of_const(data));
      if (!is_zero) co_await Disks::write_at(*target, 2 * MiB, data);
      MirrorOptions options = mirror();
      options.target_is_zero = is_zero;
      co_await start(options);
      co_await reach("j", JobStatus::ready);
      EXPECT_EQ(disks->node("t").stats().write_zeroes.operations, is_zero ? 0u : 1u);
      // What was written in it is zeroed all the same.
      const Range zeroed{MiB, 64 * KiB};
      co_await writer.write_zeroes(zeroed);
      co_await pass(100);
      const bool same = co_await equal();
      EXPECT_TRUE(same);
    });
  }
}

TEST_F(MirrorTest, Refusals) {
  make(180, 0);
  BlockNode& small = disks->disk("small", MiB);
  run([&]() -> Task<> {
    const auto refused = [&](MirrorOptions options) -> Task<std::string> {
      auto job = co_await start(std::move(options)).result();
      co_return job ? "no error" : job.error().message();
    };
    MirrorOptions options = mirror();
    options.target = source;
    EXPECT_EQ(co_await refused(options), "Can't mirror node into itself");
    options = mirror();
    options.granularity = 100;
    EXPECT_EQ(co_await refused(options), "Parameter 'granularity' expects a value in range [512B, 64MB]");
    options.granularity = 1000;
    EXPECT_EQ(co_await refused(options), "Parameter 'granularity' expects a power of 2");
    options = mirror();
    options.buf_size = -1;
    EXPECT_EQ(co_await refused(options), "Invalid parameter 'buf-size'");
    options = mirror();
    options.replaces = "x";
    EXPECT_EQ(co_await refused(options), "Failed to find node with node-name='x'");
    options = mirror();
    options.source = &disks->node("s");
    EXPECT_EQ(co_await refused(options), "Need a root block node");
    options = mirror(SyncMode::incremental);
    EXPECT_EQ(co_await refused(options), "must provide a valid bitmap name for 'incremental' sync mode");
    events.take();
    options = mirror();
    options.target = &small;
    co_await start(options);
    co_await end_of("j");
    EXPECT_EQ(events.take(),
              "j created\nj running\nj aborting\nj completed 0/0 Source and target image have different sizes\n"
              "j concluded\nj null\n");
  });
}

}  // namespace
}  // namespace tidemark::test
