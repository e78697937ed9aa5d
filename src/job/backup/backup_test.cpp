// Backups while a guest writes: the target is what the disk was at the moment of the start, and a
// bitmap never loses a bit, whatever becomes of the jobs that use it.
#include "tests/support/test_jobs.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t disk_size = 6 * MiB + 20 * KiB;

class BackupTest : public JobsTest {
 protected:
  void make(std::uint64_t seed) {
    restart(seed);
    source = &disks->disk("s", disk_size);
    target = &disks->disk("t", disk_size);
    const Content content = disks->fill(*source);
    disks->fill(*target);
    guest.emplace(*disks, disks->attach(*source), content);
    set_pace();
  }
  void set_pace(std::vector<FaultRule> source_faults = {},
                std::vector<FaultRule> target_faults = {}) {
    FaultRule jitter;
    jitter.jitter_ns = 400'000;
    source_faults.insert(source_faults.begin(), jitter);
    target_faults.insert(target_faults.begin(), jitter);
    disks->set_faults("s", std::move(source_faults));
    disks->set_faults("t", std::move(target_faults));
  }
  NodeBitmap& add_bitmap(std::uint32_t granularity = 64 * KiB) {
    return **source->bitmaps().add("b", source->size(), granularity);
  }
  BlockNode& memory(const std::string& name) { return disks->node(name); }

  // Starts a backup, and keeps what the disk holds at that moment.
  Task<ManagedJob*> start_at_point(BackupOptions options) {
    const auto drained = co_await disks->graph.drain(*options.source);
    ManagedJob* job = co_await BackupJob::create(*jobs, std::move(options));
    point = co_await Disks::read_all(memory("s"));
    jobs->start(*job);
    co_return job;
  }
  Task<> expect_point(std::string what) {
    const Content copied = co_await Disks::read_all(memory("t"));
    const bool same = copied == point;
    EXPECT_TRUE(same) << what;
  }
  // Every granule in which the target differs from the disk as it is now is dirty.
  Task<> expect_covered(NodeBitmap& bitmap, std::string what) {
    const auto drained = co_await disks->graph.drain(*source);
    const Content now = co_await Disks::read_all(memory("s"));
    const Content then = co_await Disks::read_all(memory("t"));
    std::uint64_t lost = 0;
    for (std::uint64_t at = 0; at < now.size(); at += sector_size)
      if (std::memcmp(now.data() + at, then.data() + at, sector_size) != 0)
        lost += !bitmap.bits().test(at);
    EXPECT_EQ(lost, 0u) << what;
  }
  // Runs a body with the guest at work beside it.
  void run_with_guest(std::function<Task<>()> body) {
    run([&]() -> Task<> {
      const auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(guest->work_on(6));
        co_await body();
        guest->stop();
        co_await group.join();
      };
      co_await with_group(disks->process.reactor(), both);
    });
    EXPECT_EQ(guest->failed(), 0u);
    EXPECT_EQ(disks->content_of(*source) == guest->content, true);
  }

  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  std::optional<Guest> guest;
  Content point;
};

TEST_F(BackupTest, AFullBackupIsTheDiskAtItsStart) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    make(seed);
    run_with_guest([&]() -> Task<> {
      co_await pass(2);
      co_await start_at_point(backup("j", *source, *target));
      co_await end_of("j");
      co_await expect_point("seed " + std::to_string(seed));
    });
    EXPECT_GT(guest->requests(), 20u);
    EXPECT_TRUE(events.take().ends_with("j completed 6311936/6311936\nj concluded\nj null\n"));
  }
}

TEST_F(BackupTest, IncrementalBackupsFollow) {
  for (const std::uint32_t granularity : {4096u, 65536u, 262144u}) {
    make(granularity);
    NodeBitmap& bitmap = add_bitmap(granularity);
    run_with_guest([&]() -> Task<> {
      BackupOptions full = backup("full", *source, *target);
      full.bitmap = "b";
      full.bitmap_mode = BitmapMode::on_success;
      co_await start_at_point(full);
      co_await end_of("full");
      co_await expect_point("full");
      for (int i = 0; i < 5; ++i) {
        co_await pass(3);
        BackupOptions next = backup("next", *source, *target, SyncMode::incremental);
        next.bitmap = "b";
        co_await start_at_point(next);
        EXPECT_TRUE(bitmap.busy());
        co_await end_of("next");
        co_await expect_point("incremental " + std::to_string(i));
        co_await expect_covered(bitmap, "incremental " + std::to_string(i));
        EXPECT_FALSE(bitmap.busy());
      }
    });
  }
}

TEST_F(BackupTest, ItCopiesWhatTheBitmapSaysAndNoMore) {
  make(5);
  NodeBitmap& bitmap = add_bitmap();
  run([&]() -> Task<> {
    BackupOptions full = backup("j", *source, *target);
    full.bitmap = "b";
    full.bitmap_mode = BitmapMode::on_success;
    co_await start(full);
    co_await end_of("j");
    const Content data(4096, std::byte{9});
    Edge& edge = disks->attach(*source);
    co_await edge.write(MiB, Buffers::of_const(data));
    co_await edge.write(disk_size - 4096, Buffers::of_const(data));
    const std::uint64_t written = memory("t").stats().write.bytes;
    events.take();
    BackupOptions next = backup("j", *source, *target, SyncMode::incremental);
    next.bitmap = "b";
    co_await start(next);
    co_await end_of("j");
    // One granule, and the odd one at the end.
    EXPECT_EQ(memory("t").stats().write.bytes - written, 64 * KiB + 20 * KiB);
    EXPECT_TRUE(events.take().ends_with("j completed 86016/86016\nj concluded\nj null\n"));
    EXPECT_EQ(bitmap.dirty_bytes(), 0u);
    // Nothing is dirty: nothing to do.
    co_await start(next);
    co_await end_of("j");
    EXPECT_TRUE(events.take().ends_with("j completed 0/0\nj concluded\nj null\n"));
  });
}

TEST_F(BackupTest, BitmapModes) {
  struct Case {
    BitmapMode mode;
    bool fails, keeps_bits;
  };
  for (const Case c :
       {Case{BitmapMode::on_success, false, false}, Case{BitmapMode::on_success, true, true},
        Case{BitmapMode::never, false, true}, Case{BitmapMode::never, true, true},
        Case{BitmapMode::always, false, false}, Case{BitmapMode::always, true, true}}) {
    make(6);
    NodeBitmap& bitmap = add_bitmap();
    bitmap.bits().set({0, 512 * KiB});
    FaultRule fault;
    fault.op = FaultOp::read;
    fault.range = Range{448 * KiB, 64 * KiB};
    fault.os_errno = c.fails ? EIO : 0;
    const Content data(512 * KiB, std::byte{3});
    disks->run(Disks::write_at(*source, 0, data));
    set_pace({fault});
    run([&]() -> Task<> {
      BackupOptions options = backup("j", *source, *target, SyncMode::bitmap);
      options.bitmap = "b";
      options.bitmap_mode = c.mode;
      options.perf.max_chunk = 64 * KiB;
      options.perf.max_workers = 1;
      co_await start(options);
      co_await end_of("j");
    });
    const bool partly = c.mode == BitmapMode::always && c.fails;
    const std::uint64_t expected = partly ? 64 * KiB : c.keeps_bits ? 512 * KiB : 0;
    EXPECT_EQ(bitmap.dirty_bytes(), expected) << to_string(c.mode) << c.fails;
    EXPECT_FALSE(bitmap.busy());
  }
}

TEST_F(BackupTest, ATargetThatIsSaidToBeZeroIsNotZeroed) {
  for (const bool said : {true, false}) {
    make(190 + said);
    run([&]() -> Task<> {
      const Content data(disk_size, std::byte{1});
      co_await Disks::write_at(*target, 0, data);
      Edge& writer = disks->attach(*source);
      const Range zeroed{MiB, MiB};
      co_await writer.write_zeroes(zeroed);
      BackupOptions options = backup("j", *source, *target);
      options.target_is_zero = said;
      co_await start_at_point(std::move(options));
      co_await end_of("j");
      EXPECT_EQ(memory("t").stats().write_zeroes.operations == 0, said);
    });
  }
}

TEST_F(BackupTest, BitsOutliveATargetOrSourceThatCannotBeFlushed) {
  for (const bool at_source : {false, true}) {
    make(7);
    NodeBitmap& bitmap = add_bitmap();
    bitmap.bits().set_all();
    FaultRule fault;
    fault.op = FaultOp::flush;
    fault.os_errno = EIO;
    if (at_source)
      set_pace({fault});
    else
      set_pace({}, {fault});
    run([&]() -> Task<> {
      for (const BitmapMode mode : {BitmapMode::on_success, BitmapMode::always}) {
        BackupOptions options = backup("j", *source, *target, SyncMode::bitmap);
        options.bitmap = "b";
        options.bitmap_mode = mode;
        co_await start(options);
        co_await end_of("j");
        EXPECT_TRUE(events.take().ends_with(
            "j aborting\nj completed 6311936/6311936 Input/output error\nj concluded\nj null\n"));
        EXPECT_EQ(bitmap.dirty_bytes(), disk_size);
      }
    });
  }
}

// What a user may do to a job, at random moments, until it is over.
TEST_F(BackupTest, NoBitIsEverLost) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    make(seed);
    NodeBitmap& bitmap = add_bitmap(seed % 2 ? 65536 : 8192);
    bitmap.bits().set_all();
    Prng random(seed);
    unsigned succeeded = 0;
    run_with_guest([&]() -> Task<> {
      for (int round = 0; round < 10 || succeeded == 0; ++round) {
        co_await pass(random.below(4));
        FaultRule fault;
        fault.os_errno = random.chance(1, 2) ? EIO : ENOSPC;
        fault.op = random.chance(1, 2) ? FaultOp::read : FaultOp::write;
        fault.skip = random.below(40);
        fault.count = random.below(3);
        if (fault.count == 0) fault.os_errno = 0;
        if (fault.op == FaultOp::read)
          set_pace({fault});
        else
          set_pace({}, {fault});
        BackupOptions options = backup("j", *source, *target, SyncMode::bitmap);
        options.job.auto_dismiss = false;
        options.job.auto_finalize = random.chance(1, 2);
        options.job.speed = random.chance(1, 3) ? 64 * MiB : 0;
        options.bitmap = "b";
        options.bitmap_mode = static_cast<BitmapMode>(random.below(3));
        if (options.bitmap_mode == BitmapMode::on_success && random.chance(1, 2))
          options.sync = SyncMode::incremental;
        options.on_source_error = options.on_target_error = static_cast<OnError>(random.below(5));
        ManagedJob& j = *co_await start_at_point(options);
        while (j.status() != JobStatus::concluded) {
          co_await disks->process.reactor().sleep(Duration(random.below(2'000'000)));
          const auto action = random.below(12);
          if (action == 0) (void)jobs->pause(j);
          if (action == 1) (void)jobs->cancel(j, true);
          if (action == 2)
            (void)jobs->set_speed(j, static_cast<std::int64_t>(random.below(512) * MiB));
          if (action >= 6 && j.info().paused) (void)jobs->resume(j);
          if (j.status() == JobStatus::pending && random.chance(1, 2))
            (void)co_await jobs->finalize("j").result();
        }
        const std::string what = "seed " + std::to_string(seed) + " round " + std::to_string(round);
        if (!j.info().error) {
          ++succeeded;
          co_await expect_point(what);
        }
        co_await expect_covered(bitmap, what);
        EXPECT_FALSE(bitmap.busy());
        EXPECT_EQ(source->parents().size(), 1u) << "the filter is gone";
        EXPECT_TRUE(jobs->dismiss(j).ok());
      }
      set_pace();                                      // a fault that was not met is not for who compares the disk
    });
  }
}

TEST_F(BackupTest, SeveralDisksAtOneMoment) {
  make(11);
  BlockNode& s2 = disks->disk("s2", disk_size);
  BlockNode& t2 = disks->disk("t2", disk_size);
  const Content content2 = disks->fill(s2);
  Edge& edge1 = disks->attach(*source, "pair");
  Edge& edge2 = disks->attach(s2, "pair");
  bool stop = false;
  // Writes the same number to both disks, first to the one, then to the other.
  const auto pair_writer = [&]() -> Task<> {
    std::uint32_t n = 0;
    while (!stop) {
      ++n;
      Content number(512);
      std::memcpy(number.data(), &n, sizeof n);
      co_await edge1.write(disk_size - 512, Buffers::of_const(number));
      co_await edge2.write(0, Buffers::of_const(number));
    }
  };
  run([&]() -> Task<> {
    const auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(pair_writer());
      co_await pass(20);
      std::vector<BackupOptions> all{backup("a", *source, *target), backup("b", s2, t2)};
      co_await start_all(all, true);
      co_await end_of("a");
      stop = true;
      co_await group.join();
    };
    co_await with_group(disks->process.reactor(), both);
    const Content one = co_await Disks::read_all(memory("t"));
    const Content two = co_await Disks::read_all(memory("t2"));
    std::uint32_t first = 0, second = 0;
    std::memcpy(&first, one.data() + disk_size - 512, sizeof first);
    std::memcpy(&second, two.data(), sizeof second);
    EXPECT_GT(first, 1u);
    EXPECT_TRUE(first == second || first == second + 1) << first << " " << second;
  });
}

TEST_F(BackupTest, ASourceThatCannotBeReadFailsTheBackupAndNotTheGuest) {
  make(12);
  const Content data(64 * KiB, std::byte{1});
  disks->run(Disks::write_at(*source, MiB, data));
  run([&]() -> Task<> {
    ManagedJob& j = *co_await start(backup("j", *source, *target, SyncMode::none));
    FaultRule fault;
    fault.op = FaultOp::read;
    fault.os_errno = EIO;
    set_pace({fault});
    Edge& edge = *disks->roots.front();
    const Content fresh(4096, std::byte{2});
    co_await edge.write(MiB, Buffers::of_const(fresh));
    (void)j;
    co_await end_of("j");
    EXPECT_TRUE(events.take().ends_with(
        "j aborting\nj completed 0/6311936 Input/output error\nj concluded\nj null\n"));
  });
}

TEST_F(BackupTest, OnRequestTheGuestFailsInstead) {
  make(13);
  const Content data(64 * KiB, std::byte{1});
  disks->run(Disks::write_at(*source, MiB, data));
  run([&]() -> Task<> {
    BackupOptions options = backup("j", *source, *target, SyncMode::none);
    options.on_cbw_error = OnCbwError::break_guest_write;
    co_await start(options);
    FaultRule fault;
    fault.op = FaultOp::write;
    fault.os_errno = ENOSPC;
    set_pace({}, {fault});
    Edge& edge = *disks->roots.front();
    const Content fresh(4096, std::byte{2});
    auto written = co_await edge.write(MiB, Buffers::of_const(fresh)).result();
    EXPECT_FALSE(written.ok());
    EXPECT_EQ(job("j").status(), JobStatus::running);
  });
}

// What guests wait for is given up with the target, as often as it takes, and nothing more is sent there.
TEST_F(BackupTest, GuestsGoOnWhenTheTargetHangsAndTheBackupIsCancelled) {
  make(15);
  Hanging& hanging = disks->add_hanging("t");
  const auto late = [&](BlockNode& below) -> BlockNode& {
    FaultRule slow;
    slow.latency_ns = 3'000'000'000;
    FaultOptions options;
    options.file = &below;
    options.rules = {slow};
    options.seed = 1;
    return disks->add("late", *open_fault(options));
  };
  for (const bool repeatedly : {false, true}) {
    target = repeatedly ? &late(disks->node("hanging-t")) : &disks->node("hanging-t");
    FaultRule slow;
    slow.op = FaultOp::read;
    slow.latency_ns = 400'000'000;
    set_pace({slow});
    Reactor& reactor = disks->process.reactor();
    run([&]() -> Task<> {
      const auto body = [&](TaskGroup& group) -> Task<> {
        Edge& edge = *disks->roots.front();
        const Content fresh(4096, std::byte{2});
        co_await start(backup("j", *source, *target, SyncMode::none));
        hanging.hang(true);
        const Instant began = reactor.now();
        const auto write = [&](std::uint64_t at) -> Task<> { co_await edge.write(at, Buffers::of_const(fresh)); };
        group.spawn(write(1 * MiB));
        co_await pass(800);
        group.spawn(write(2 * MiB));
        co_await pass(200);
        EXPECT_EQ(hanging.waiting(), repeatedly ? 0u : 1u);
        (void)jobs->cancel(job("j"), true);
        const bool ended = co_await ends_within("j", std::chrono::seconds(10));
        EXPECT_TRUE(ended);
        co_await group.join();
        EXPECT_LT(reactor.now() - began, std::chrono::seconds(10));
        hanging.hang(false);
      };
      co_await with_group(reactor, body);
    });
  }
}

TEST_F(BackupTest, TheSpeedLimitHolds) {
  make(14);
  set_pace();
  run([&]() -> Task<> {
    BackupOptions options = backup("j", *source, *target);
    options.job.speed = MiB;
    const Instant before = disks->process.reactor().now();
    co_await start(options);
    co_await end_of("j");
    const Duration taken = disks->process.reactor().now() - before;
    EXPECT_GT(taken, std::chrono::milliseconds(5500));
    EXPECT_LT(taken, std::chrono::milliseconds(6700));
  });
}

TEST_F(BackupTest, WhatCannotBeIsRefusedAndLeavesNothing) {
  make(15);
  add_bitmap();
  BlockNode& small = disks->disk("small", MiB);
  BlockNode& other = disks->disk("other", disk_size);
  using B = BackupOptions;
  const auto set = [](SyncMode sync, std::optional<std::string> bitmap,
                      std::optional<BitmapMode> mode) {
    return [=](B& o) {
      o.sync = sync;
      o.bitmap = bitmap;
      o.bitmap_mode = mode;
    };
  };
  using enum SyncMode;
  const auto no_bitmap = std::nullopt;
  const std::pair<std::function<void(B&)>, std::string> cases[] = {
      {[&](B& o) { o.target = &small; }, "Source and target image have different sizes"},
      {[&](B& o) { o.target = source; }, "Source and target cannot be the same"},
      {[](B& o) { o.job.id = ""; }, "Invalid job ID ''"},
      {[](B& o) { o.job.id = "k l"; }, "Invalid job ID 'k l'"},
      {[](B& o) { o.job.id = "used"; }, "Job ID 'used' already in use"},
      {[&](B& o) { o.target = &other; },
       "Node 'fault-other' is busy: block device is in use by block job: backup"},
      {[](B& o) { o.compress = true; }, "Compression is not supported for this drive 'fault-t'"},
      {[](B& o) { o.filter_node_name = "s"; }, "Could not create node: Duplicate nodes with node-name='s'"},
      {[](B& o) { o.filter_node_name = "9x"; }, "Could not create node: Invalid node-name: '9x'"},
      {[](B& o) { o.perf.max_workers = 0; }, "max-workers must be between 1 and 2147483647"},
      {[](B& o) { o.perf.max_chunk = -1; },
       "max-chunk must be zero (which means no limit) or positive"},
      {[](B& o) { o.perf.max_chunk = 4096; },
       "Required max-chunk (4096) is less than backup cluster size (65536)"},
      {[](B& o) { o.discard_source = true; }, "discard-source is not supported"},
      {set(incremental, no_bitmap, {}),
       "must provide a valid bitmap name for 'incremental' sync mode"},
      {set(SyncMode::bitmap, no_bitmap, {}),
       "must provide a valid bitmap name for 'bitmap' sync mode"},
      {set(SyncMode::bitmap, "x", {}), "Bitmap 'x' could not be found"},
      {set(full, no_bitmap, BitmapMode::never), "Cannot specify bitmap sync mode without a bitmap"},
      {set(incremental, "x", BitmapMode::never),
       "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'"},
      {set(full, "b", BitmapMode::never),
       "Bitmap sync mode 'never' has no meaningful effect when combined with sync mode 'full'"},
      {set(none, "b", BitmapMode::on_success),
       "sync mode 'none' does not produce meaningful bitmap outputs"},
      {set(full, "b", {}), "Bitmap sync mode must be given when providing a bitmap"},
  };
  run([&]() -> Task<> {
    co_await start(backup("used", *source, other, none));
    const std::size_t nodes = disks->graph.nodes().size();
    events.take();
    for (const auto& [change, message] : cases) {
      B options = backup("j", *source, *target);
      change(options);
      const auto outcome = co_await start(options).result();
      EXPECT_EQ(outcome ? "no error" : outcome.error().message(), message);
      EXPECT_EQ(disks->graph.nodes().size(), nodes);
      EXPECT_FALSE(source->bitmaps().find("b")->busy());
    }
    EXPECT_EQ(events.take().find("j "), std::string::npos);
  });
}

TEST_F(BackupTest, ABitmapInUseCannotBeUsedTwice) {
  make(16);
  add_bitmap();
  BlockNode& other = disks->disk("other", disk_size);
  run([&]() -> Task<> {
    BackupOptions first = backup("j", *source, *target, SyncMode::bitmap);
    first.bitmap = "b";
    first.bitmap_mode = BitmapMode::never;
    first.job.auto_finalize = false;
    co_await start(first);
    BackupOptions second = backup("k", *source, other, SyncMode::incremental);
    second.bitmap = "b";
    EXPECT_EQ((co_await start(second).result()).error().message(),
              "Bitmap 'b' is currently in use by another operation and cannot be used");
  });
}

}  // namespace
}  // namespace tidemark::test
