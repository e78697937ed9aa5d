// The simulated machine through reactors: crashes, faults, determinism, scheduling, limits.
#include <gtest/gtest.h>

#include <set>

#include "io/aligned.hpp"
#include "io/file.hpp"
#include "io/sim/process.hpp"
#include "task/finally.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

Buffers out(const std::string& text) { return Buffers::of_const(as_bytes(text)); }
Buffers in(std::string& text) { return MutableBytes(std::as_writable_bytes(std::span(text))); }
OpenFlags writing() {
  OpenFlags flags;
  flags.write = flags.create = true;
  return flags;
}

// use(File&) -> Task<>
template <class Use>
Task<> with_file(Reactor& reactor, std::string path, OpenFlags flags, Use& use) {
  File file = co_await File::open(reactor, std::move(path), flags);
  auto close = [&file] { return file.close(); };
  co_await finally(use(file), close);
}

template <class Use>
Result<> use_file(SimProcess& process, std::string path, OpenFlags flags, Use use) {
  return process.run(with_file(process.reactor(), std::move(path), flags, use));
}

std::string text_of(const std::vector<std::byte>& bytes) { return std::string(as_text(bytes)); }

// A little of everything, to see whether two runs are the same.
Task<> busy(Reactor& reactor, int number) {
  const std::string name = "/f" + std::to_string(number % 3);
  auto use = [&](File& file) -> Task<> {
    for (int i = 0; i < 5; ++i) {
      const std::string text(1 + reactor.backend().random() % 5000, static_cast<char>('a' + i));
      co_await file.write(reactor.backend().random() % 10'000, out(text));
      std::string back(3000, '?');
      co_await file.read(0, in(back));
      if (i == 3) co_await file.sync();
    }
  };
  co_await with_file(reactor, name, writing(), use);
  co_await reactor.sleep(1ms);
}

Task<> all_busy(Reactor& reactor) {
  auto all = [&](TaskGroup& group) -> Task<> {
    for (int i = 0; i < 6; ++i) group.spawn(busy(reactor, i));
    co_await group.join();
  };
  co_await with_group(reactor, all);
}

struct Trace {
  std::uint64_t hash;
  std::string log;
  std::string left;
  friend bool operator==(const Trace&, const Trace&) = default;
};

Trace run_busy(std::uint64_t seed, std::uint64_t crash_at, std::uint64_t crash_seed = 0) {
  SimOptions options;
  options.crash_seed = crash_seed;
  SimWorld world(seed, options);
  Trace trace;
  world.trace_to([&](std::string_view line) { trace.log.append(line) += '\n'; });
  world.crash_after_ops(crash_at);
  SimProcess first(world, "first"), second(world, "second");
  first.start(all_busy(first.reactor()));
  (void)second.run(all_busy(second.reactor()));
  (void)first.join();
  trace.hash = world.trace_hash();
  for (const char* path : {"/f0", "/f1", "/f2"})
    if (world.disk().exists(path)) trace.left += text_of(world.disk().export_file(path)) + '|';
  return trace;
}

TEST(Sim, ASeedIsARun) {
  std::set<std::uint64_t> hashes;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const Trace once = run_busy(seed, 0), again = run_busy(seed, 0);
    EXPECT_EQ(once, again);
    EXPECT_GT(once.log.size(), 1000u);
    hashes.insert(once.hash);
    const Trace crashed = run_busy(seed, 20), crashed_again = run_busy(seed, 20);
    EXPECT_EQ(crashed, crashed_again);
  }
  EXPECT_EQ(hashes.size(), 10u);
}

TEST(Sim, TheCrashSeedVariesWhatIsLeftAndNothingBefore) {
  std::set<std::uint64_t> hashes;
  std::set<std::string> left;
  for (std::uint64_t crash_seed = 0; crash_seed < 20; ++crash_seed) {
    const Trace trace = run_busy(7, 30, crash_seed);
    hashes.insert(trace.hash);
    left.insert(trace.left);
  }
  EXPECT_EQ(hashes.size(), 1u);
  EXPECT_GT(left.size(), 5u);
}

TEST(Sim, ACrashEndsEverythingAndARestartFindsWhatIsDurable) {
  SimWorld world(1);
  world.disk().import_file("/disk", std::vector<std::byte>(8192));
  const std::string a(4096, 'A');
  {
    SimProcess process(world);
    auto use = [&](File& file) -> Task<> {
      co_await file.write(0, out(a));
      co_await file.sync();
      world.crash();
      const Result<> written = co_await file.write(4096, out(a)).result();
      EXPECT_EQ(written.error().os_errno(), EIO);
      const Result<> synced = co_await file.sync().result();
      EXPECT_EQ(synced.error().message(), "sync '/disk': Input/output error");
      int worked = 0;
      auto work = [&] { ++worked; };
      co_await process.reactor().offload(work);
      EXPECT_EQ(worked, 1);
    };
    EXPECT_TRUE(use_file(process, "/disk", writing(), use));     // close succeeds
    EXPECT_FALSE(process.backend().alive());
  }
  SimProcess restarted(world);
  auto look = [&](File& file) -> Task<> {
    std::string back(8192, '?');
    co_await file.read(0, in(back));
    EXPECT_EQ(back, a + std::string(4096, '\0'));
  };
  EXPECT_TRUE(use_file(restarted, "/disk", {}, look));
}

// Counts the operations of a workload, then crashes at each of them.
TEST(Sim, ACrashCanComeAtEveryOperation) {
  auto write_two = [](SimProcess& process) {
    auto use = [](File& file) -> Task<> {
      const std::string a(512, 'A'), b(512, 'B');
      co_await file.write(0, out(a));
      co_await file.sync();
      co_await file.write(0, out(b));
    };
    return use_file(process, "/f", writing(), use);
  };
  std::uint64_t total = 0;
  {
    SimWorld world(1);
    SimProcess process(world);
    EXPECT_TRUE(write_two(process));
    total = world.ops();
  }
  EXPECT_GE(total, 4u);
  std::set<std::string> found;
  for (std::uint64_t n = 1; n <= total; ++n)
    for (std::uint64_t crash_seed = 0; crash_seed < 100; ++crash_seed) {
      SimOptions options;
      options.crash_seed = crash_seed;
      SimWorld world(1, options);
      world.crash_after_ops(n);
      SimProcess process(world);
      (void)write_two(process);
      EXPECT_EQ(world.crashes(), 1u);
      std::string left = "none";
      if (world.disk().exists("/f")) left = text_of(world.disk().export_file("/f")).substr(0, 1);
      found.insert(left);
      EXPECT_TRUE(n != total || left == "none" || left == "A" || left == "B") << left;
    }
  const std::set<std::string> expected = {"none", "", std::string(1, '\0'), "A", "B"};
  EXPECT_EQ(found, expected);
}

TEST(Sim, AWriteUnderWayMayOrMayNotBeThere) {
  std::set<char> found;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SimOptions options;
    options.inline_ppm = 0;
    SimWorld world(seed, options);
    world.disk().import_file("/f", std::vector<std::byte>(512));
    SimProcess process(world);
    const std::string a(512, 'A');
    auto use = [&](File& file) -> Task<> {
      SimFault fault;
      fault.kind = IoOp::Kind::write;
      fault.action = SimFault::Action::crash;
      world.faults().add(fault);
      EXPECT_FALSE((co_await file.write(0, out(a), true).result()).ok());
    };
    EXPECT_TRUE(use_file(process, "/f", writing(), use));
    found.insert(text_of(world.disk().export_file("/f"))[0]);
  }
  const std::set<char> expected = {'\0', 'A'};
  EXPECT_EQ(found, expected);
}

TEST(Sim, AKilledProcessLeavesThePageCache) {
  SimWorld world(2);
  world.disk().import_file("/f", std::vector<std::byte>(512));
  SimProcess process(world), other(world);
  const std::string a(512, 'A');
  auto use = [&](File& file) -> Task<> {
    LockRequest lock{LockRequest::Mode::exclusive, 0, 1};
    co_await file.lock(lock);
    co_await file.write(0, out(a));
    process.backend().kill();
    EXPECT_FALSE((co_await file.sync().result()).ok());
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  EXPECT_EQ(text_of(world.disk().export_file("/f")), a);
  EXPECT_FALSE(world.disk().file("/f")->clean());
  auto lock_again = [](File& file) -> Task<> {
    LockRequest lock{LockRequest::Mode::exclusive, 0, 1};
    co_await file.lock(lock);
  };
  EXPECT_TRUE(use_file(other, "/f", writing(), lock_again));
  EXPECT_TRUE(other.backend().alive());
}

TEST(Sim, TemporaryFilesAndLocksGoWithTheMachine) {
  SimWorld world(3);
  world.disk().make_directory("/tmp");
  {
    SimProcess process(world);
    auto use = [&](File& file) -> Task<> {
      const std::string text(10'000, 'x');
      co_await file.write(0, out(text));
      EXPECT_GT(world.disk().used(), 0u);
      world.crash();
    };
    OpenFlags flags;
    flags.write = flags.temporary = true;
    EXPECT_TRUE(use_file(process, "/tmp", flags, use));
  }
  EXPECT_EQ(world.disk().used(), 0u);
}

TEST(Sim, TheNthOperationFailsAsTold) {
  SimWorld world(4);
  SimProcess process(world);
  SimFault fault;
  fault.kind = IoOp::Kind::write;
  fault.path = "ile";
  fault.skip = 2;
  fault.os_errno = ENOSPC;
  world.faults().add(fault);
  auto use = [&](File& file) -> Task<> {
    const std::string x = "x";
    for (int i = 0; i < 5; ++i) {
      const Result<> written = co_await file.write(0, out(x)).result();
      EXPECT_EQ(written.ok(), i != 2) << i;
      EXPECT_TRUE(written || written.error().code() == Errc::no_space);
    }
  };
  EXPECT_TRUE(use_file(process, "/file", writing(), use));
  auto other = [&](File& file) -> Task<> { co_await file.truncate(1); };
  EXPECT_TRUE(use_file(process, "/other", writing(), other));
}

TEST(Sim, ErrorsComeAsOftenAsAsked) {
  SimOptions options;
  options.read_error_ppm = options.write_error_ppm = options.sync_error_ppm = 250'000;
  SimWorld world(5, options);
  SimProcess process(world);
  int reads = 0, writes = 0, syncs = 0;
  auto use = [&](File& file) -> Task<> {
    std::string text(10, 'x');
    for (int i = 0; i < 1000; ++i) {
      writes += !(co_await file.write(0, out(text)).result()).ok();
      reads += !(co_await file.read(0, in(text)).result()).ok();
      syncs += !(co_await file.sync().result()).ok();
    }
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  for (const int failed : {reads, writes, syncs}) {
    EXPECT_GT(failed, 180);
    EXPECT_LT(failed, 350);                      // a transfer in pieces has several chances
  }
}

TEST(Sim, AFailedWriteMayHaveWrittenAPart) {
  SimOptions options;
  options.write_error_ppm = 1'000'000;
  SimWorld world(6, options);
  SimProcess process(world);
  std::set<std::size_t> sizes;
  auto use = [&](File& file) -> Task<> {
    const std::string text(1000, 'x');
    for (int i = 0; i < 100; ++i) {
      EXPECT_FALSE((co_await file.write(0, out(text)).result()).ok());
      sizes.insert(world.disk().export_file("/f").size());
      co_await file.truncate(0);
    }
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  EXPECT_TRUE(sizes.contains(0));
  EXPECT_GT(sizes.size(), 10u);
}

TEST(Sim, TheDiskFillsUp) {
  SimOptions options;
  options.capacity = 64 * KiB;
  SimWorld world(7, options);
  SimProcess process(world);
  auto use = [&](File& file) -> Task<> {
    const std::string half(32 * KiB, 'x');
    const Range first{0, 32 * KiB}, second{32 * KiB, 32 * KiB};
    co_await file.write(0, out(half));
    co_await file.allocate(AllocateMode::preallocate, second);
    const Result<> full = co_await file.write(64 * KiB, out(half)).result();
    EXPECT_EQ(full.error().code(), Errc::no_space);
    co_await file.write(32 * KiB, out(half));    // its space was set aside
    co_await file.allocate(AllocateMode::punch_hole, first);
    co_await file.write(64 * KiB, out(half));
    EXPECT_EQ(world.disk().used(), 64 * KiB);
  };
  const Result<> used = use_file(process, "/f", writing(), use);
  EXPECT_TRUE(used) << used.error().message();
}

TEST(Sim, AHungOperationWaitsForItsRelease) {
  SimWorld world(8);
  SimProcess process(world);
  SimFault fault;
  fault.kind = IoOp::Kind::sync;
  fault.action = SimFault::Action::hang;
  world.faults().add(fault);
  auto use = [&](File& file) -> Task<> {
    bool synced = false;
    auto sync = [&]() -> Task<> {
      co_await file.sync();
      synced = true;
    };
    auto all = [&](TaskGroup& group) -> Task<> {
      group.spawn(sync());
      co_await process.reactor().sleep(1h);
      EXPECT_FALSE(synced);
      world.release_hung();
      co_await group.join();
      EXPECT_TRUE(synced);
    };
    co_await with_group(process.reactor(), all);
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
}

TEST(SimDeathTest, ADeadlockIsReportedWithWhatIsInFlight) {
  auto hang = [] {
    SimWorld world(9);
    SimProcess process(world, "daemon");
    SimFault fault;
    fault.kind = IoOp::Kind::sync;
    fault.action = SimFault::Action::hang;
    world.faults().add(fault);
    auto use = [](File& file) -> Task<> { co_await file.sync(); };
    (void)use_file(process, "/f", writing(), use);
  };
  EXPECT_DEATH(hang(), "seed 9: deadlock.*daemon waits for nothing\n.*held up by a fault: daemon: sync '/f'");
}

TEST(SimDeathTest, ADeadlockNeedsNoOperation) {
  auto wait_for_nobody = [] {
    SimWorld world(10);
    SimProcess process(world);
    Event never(process.reactor());
    (void)process.run(never.wait());
  };
  EXPECT_DEATH(wait_for_nobody(), "deadlock.*\n.*no operation is in flight");
}

TEST(Sim, TransfersAreShortAndCompleteInlineOrLater) {
  SimOptions options;
  options.short_file_ppm = 500'000;
  SimWorld world(11, options);
  std::string log;
  world.trace_to([&](std::string_view line) { log.append(line) += '\n'; });
  SimProcess process(world);
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>(i * 7);
  auto use = [&](File& file) -> Task<> {
    for (int i = 0; i < 20; ++i) {
      std::string back(text.size(), '?');
      co_await file.write(0, out(text));
      co_await file.read(0, in(back));
      EXPECT_EQ(back, text);
    }
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  for (const char* seen : {"read '/f'", "write '/f'", "at once: ", "ends: "})
    EXPECT_NE(log.find(seen), log.npos) << seen;
  EXPECT_GT(std::ranges::count(log, '\n'), 100);
}

TEST(Sim, OperationsOvertakeEachOther) {
  SimOptions options;
  options.inline_ppm = 0;
  SimWorld world(12, options);
  SimProcess process(world);
  std::vector<int> order;
  auto use = [&](File& file) -> Task<> {
    auto write = [&](int i) -> Task<> {
      const std::string x = "x";
      co_await file.write(0, out(x));
      order.push_back(i);
    };
    auto all = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < 20; ++i) group.spawn(write(i));
      co_await group.join();
    };
    co_await with_group(process.reactor(), all);
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  EXPECT_EQ(order.size(), 20u);
  EXPECT_FALSE(std::ranges::is_sorted(order));
}

TEST(Sim, ASyncDoesNotCoverWritesThatStartedAfterIt) {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SimOptions options;
    options.inline_ppm = 0;
    SimWorld world(seed, options);
    world.disk().import_file("/f", std::vector<std::byte>(1024));
    SimProcess process(world);
    auto use = [&](File& file) -> Task<> {
      const std::string a(512, 'A');
      co_await file.write(0, out(a));
      auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(file.sync());
        group.spawn(file.write(512, out(a)));
        co_await group.join();
      };
      co_await with_group(process.reactor(), both);
      world.crash();
    };
    EXPECT_TRUE(use_file(process, "/f", writing(), use));
    const std::string left = text_of(world.disk().export_file("/f"));
    EXPECT_EQ(left[0], 'A');
    lost += left[512] != 'A';
  }
  EXPECT_GT(lost, 10);
  EXPECT_LT(lost, 90);
}

TEST(Sim, TimeJumpsAndIsOneForAll) {
  SimWorld world(13);
  SimProcess first(world), second(world);
  std::vector<int> order;
  auto note = [&order](Reactor& reactor, Duration when, int number) -> Task<> {
    co_await reactor.sleep(when);
    order.push_back(number);
    co_await reactor.sleep(24h);
    order.push_back(number + 10);
  };
  const std::int64_t before = first.backend().wall_clock_ns();
  first.start(note(first.reactor(), 2h, 2));
  EXPECT_TRUE(second.run(note(second.reactor(), 1h, 1)));
  EXPECT_TRUE(first.join());
  const std::vector<int> expected = {1, 2, 11, 12};
  EXPECT_EQ(order, expected);
  EXPECT_GE(world.now(), 26h);
  EXPECT_LT(world.now(), 27h);
  EXPECT_GE(first.backend().wall_clock_ns() - before, Duration(26h).count());
}

TEST(Sim, DirectTransfersMustBeAligned) {
  SimWorld world(14);
  world.disk().make_device("/dev/disk", MiB, 4096);
  SimProcess process(world);
  OpenFlags flags;
  flags.write = flags.direct = true;
  auto use = [&](File& file) -> Task<> {
    AlignedBuffer memory(8192);
    const Buffers buffers = memory.bytes();
    const FileInfo info = co_await file.stat();
    EXPECT_EQ(info.type, FileInfo::Type::block_device);
    EXPECT_EQ(info.size, MiB);
    EXPECT_EQ(info.logical_block, 4096u);
    co_await file.write(4096, buffers);
    co_await file.read(4096, buffers);
    for (const Buffers& bad : {buffers.slice(0, 512), buffers.slice(512, 4096)})
      EXPECT_EQ((co_await file.write(0, bad).result()).error().os_errno(), EINVAL);
    EXPECT_EQ((co_await file.read(512, buffers).result()).error().os_errno(), EINVAL);
    EXPECT_EQ((co_await file.write(MiB, buffers).result()).error().os_errno(), ENOSPC);
    EXPECT_FALSE((co_await file.truncate(2 * MiB).result()).ok());
  };
  const Result<> used = use_file(process, "/dev/disk", flags, use);
  EXPECT_TRUE(used) << used.error().message();
}

TEST(Sim, AHandleThatWasClosedIsNoOther) {
  SimWorld world(15);
  SimProcess process(world);
  auto main = [&]() -> Task<> {
    File first = co_await File::open(process.reactor(), "/a", writing());
    const Handle old = first.handle();
    co_await first.close();
    File second = co_await File::open(process.reactor(), "/b", writing());
    IoOp op(IoOp::Kind::sync, old);
    EXPECT_EQ(co_await process.reactor().perform(op), -EBADF);
    co_await second.close();
  };
  EXPECT_TRUE(process.run(main()));
}

TEST(Sim, ImagesGoInAndOut) {
  SimWorld world(16);
  const std::string text(10'000, 'x');
  world.disk().import_file("/a/b/image", as_bytes(text));
  world.crash();
  EXPECT_EQ(text_of(world.disk().export_file("/a/b/image")), text);
  EXPECT_FALSE(world.disk().exists("/a/b/other"));
  SimProcess process(world);
  auto use = [&](File& file) -> Task<> {
    co_await file.truncate(16 * TiB);
    co_await file.write(10 * TiB, out(text));
    EXPECT_EQ(world.disk().file("/a/b/image")->durable().size(), text.size());
  };
  EXPECT_TRUE(use_file(process, "/a/b/image", writing(), use));
  std::uint64_t data = 0;
  const auto sink = [&](std::uint64_t offset, Bytes bytes) {
    EXPECT_TRUE(offset < 12 * KiB || offset >= 10 * TiB);
    data += bytes.size();
  };
  EXPECT_EQ(world.disk().export_file("/a/b/image", sink), 16 * TiB);
  EXPECT_GE(data, 2 * text.size());
  EXPECT_LE(data, 2 * 12 * KiB);
  world.disk().sync_all();
  EXPECT_EQ(world.disk().file("/a/b/image")->durable().size(), 16 * TiB);
}

// A rename after a sync of the file is the way to replace one: old or new, never in between.
TEST(Sim, FilesAreReplacedAtomically) {
  std::set<std::string> found;
  for (std::uint64_t n = 1; n <= 8; ++n)
    for (std::uint64_t seed = 0; seed < 30; ++seed) {
      SimWorld world(seed);
      world.disk().import_file("/f", as_bytes("old"));
      world.crash_after_ops(n);
      SimProcess process(world);
      const Result<> replaced = process.run(fs::replace(process.reactor(), "/f", "new"));
      if (world.crashes() == 0) world.crash();
      const std::string left = text_of(world.disk().export_file("/f"));
      EXPECT_TRUE(!replaced || left == "new");
      found.insert(left);
    }
  const std::set<std::string> expected = {"old", "new"};
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace tidemark
