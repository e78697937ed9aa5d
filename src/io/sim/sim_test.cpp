// The simulated machine through reactors: determinism, scheduling, time, deadlocks, images.
#include <algorithm>
#include <set>

#include "io/aligned.hpp"
#include "io/sim/testing.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

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
  EXPECT_DEATH(hang(), "seed 9, .*'daemon': deadlock.*\n.*held up by a fault: daemon: sync '/f'");
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

TEST(SimDeathTest, ADeadProcessMustEnd) {
  auto never_end = [] {
    SimWorld world(10);
    SimProcess process(world);
    auto loop = [&]() -> Task<> {
      for (;;) (void)co_await fs::stat(process.reactor(), "/").result();
    };
    process.start(loop());
    (void)process.stop();
  };
  EXPECT_DEATH(never_end(), "it is dead and does not end");
}

TEST(Sim, ACoroutineMayRunAnotherProcess) {
  SimWorld world(17);
  SimProcess outer(world, "outer"), beside(world, "beside");
  int beside_done = 0;
  auto main = [&]() -> Task<> {
    SimProcess inner(world, "inner");
    EXPECT_TRUE(inner.run(all_busy(inner.reactor())));
    inner.start(all_busy(inner.reactor()));
    co_await outer.reactor().sleep(1us);
    EXPECT_TRUE(inner.join());
  };
  auto count = [&]() -> Task<> {
    co_await all_busy(beside.reactor());
    ++beside_done;
  };
  beside.start(count());
  EXPECT_TRUE(outer.run(main()));
  EXPECT_TRUE(beside.join());
  EXPECT_EQ(beside_done, 1);
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
    const std::int64_t result = co_await process.reactor().perform(op);
    EXPECT_EQ(result, -EBADF);
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

TEST(Sim, AReadOnlyDeviceTakesNoWrite) {
  SimWorld world(20);
  world.disk().make_device("/dev/disk", MiB, 512, true);
  SimProcess process(world);
  auto use = [](File& file) -> Task<> {
    const std::string x = "x";
    EXPECT_TRUE((co_await file.stat()).read_only);
    EXPECT_EQ((co_await file.write(0, out(x)).result()).error().code(), Errc::permission);
  };
  EXPECT_TRUE(use_file(process, "/dev/disk", writing(), use));
}

}  // namespace
}  // namespace tidemark
