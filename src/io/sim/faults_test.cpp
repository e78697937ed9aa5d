// Operations that fail, hang, are slow, short or find no space.
#include <algorithm>
#include <set>

#include "io/sim/testing.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

TEST(SimFaults, TheNthOperationFailsAsTold) {
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

TEST(SimFaults, ErrorsComeAsOftenAsAsked) {
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

TEST(SimFaults, AFailedWriteMayHaveWrittenAPart) {
  SimOptions options;
  options.write_error_ppm = 1'000'000;
  SimWorld world(6, options);
  SimProcess process(world);
  std::set<std::size_t> sizes;
  auto use = [&](File& file) -> Task<> {
    const std::string text(16384, 'x');
    for (int i = 0; i < 100; ++i) {
      EXPECT_FALSE((co_await file.write(0, out(text)).result()).ok());
      sizes.insert(world.disk().export_file("/f").size());
      co_await file.truncate(0);
    }
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  EXPECT_TRUE(sizes.contains(0));
  EXPECT_GT(sizes.size(), 10u);                  // it ends between two sectors
}

TEST(SimFaults, TheDiskFillsUp) {
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

TEST(SimFaults, AHungOperationWaitsForItsRelease) {
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

TEST(SimFaults, ASlowFileIsSlowAlone) {
  SimWorld world(18);
  SimProcess process(world);
  SimFault slow;
  slow.action = SimFault::Action::delay;
  slow.path = "/slow";
  slow.count = SimFault::always;
  slow.delay = 1s;
  world.faults().add(slow);
  auto use = [](File& file) -> Task<> {
    for (int i = 0; i < 3; ++i) co_await file.sync();
  };
  EXPECT_TRUE(use_file(process, "/fast", writing(), use));
  EXPECT_LT(world.now(), 1s);
  EXPECT_TRUE(use_file(process, "/slow", writing(), use));
  EXPECT_GE(world.now(), 5s);                    // open, three syncs, close
}

TEST(SimFaults, TransfersAreShortAndCompleteInlineOrLater) {
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

}  // namespace
}  // namespace tidemark
