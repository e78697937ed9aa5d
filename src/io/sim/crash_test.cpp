// The power is cut, or a process killed, while programs run: what they see, and what is left.
#include <set>

#include "io/sim/testing.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using namespace std::chrono_literals;

TEST(SimCrash, ACrashEndsEverythingAndARestartFindsWhatIsDurable) {
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
TEST(SimCrash, ACrashCanComeAtEveryOperation) {
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

TEST(SimCrash, AWriteUnderWayMayOrMayNotBeThere) {
  std::set<std::string> found;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SimOptions options;
    options.inline_ppm = 0;
    SimWorld world(seed, options);
    world.disk().import_file("/f", std::vector<std::byte>(1024, std::byte{'.'}));
    SimProcess process(world);
    const std::string a(1024, 'A');
    auto use = [&](File& file) -> Task<> {
      SimFault fault;
      fault.kind = IoOp::Kind::write;
      fault.action = SimFault::Action::crash;
      world.faults().add(fault);
      EXPECT_FALSE((co_await file.write(0, out(a), true).result()).ok());
    };
    EXPECT_TRUE(use_file(process, "/f", writing(), use));
    const std::string left = text_of(world.disk().export_file("/f"));
    found.insert(left.substr(511, 2));
  }
  const std::set<std::string> expected = {"..", "AA", "A.", ".A"};
  EXPECT_EQ(found, expected);
}

TEST(SimCrash, AKilledProcessLeavesThePageCache) {
  SimWorld world(2);
  world.disk().import_file("/f", std::vector<std::byte>(512));
  SimProcess process(world), other(world);
  const std::string a(512, 'A');
  auto lock_again = [](File& file) -> Task<> {
    LockRequest lock{LockRequest::Mode::exclusive, 0, 1};
    co_await file.lock(lock);
  };
  auto use = [&](File& file) -> Task<> {
    LockRequest lock{LockRequest::Mode::exclusive, 0, 1};
    co_await file.lock(lock);
    co_await file.write(0, out(a));
    process.backend().kill();
    EXPECT_FALSE((co_await file.sync().result()).ok());
    EXPECT_TRUE(use_file(other, "/f", writing(), lock_again));     // the lock went with it
  };
  EXPECT_TRUE(use_file(process, "/f", writing(), use));
  EXPECT_EQ(text_of(world.disk().export_file("/f")), a);
  EXPECT_FALSE(world.disk().file("/f")->clean());
  EXPECT_TRUE(other.backend().alive());
}

TEST(SimCrash, TemporaryFilesGoWithTheMachine) {
  SimWorld world(3);
  world.disk().make_directory("/tmp");
  {
    SimProcess process(world);
    auto use = [&](File& file) -> Task<> {
      const std::string text(10'000, 'x');
      co_await file.write(0, out(text));
      EXPECT_GT(world.disk().used(), 0u);
      world.crash();
      EXPECT_EQ(world.disk().used(), 0u);        // though its program has not come to its end
    };
    OpenFlags flags;
    flags.write = flags.temporary = true;
    EXPECT_TRUE(use_file(process, "/tmp", flags, use));
  }
  EXPECT_EQ(world.disk().used(), 0u);
}

TEST(SimCrash, ASyncCoversWhatHadCompletedWhenItStarted) {
  int overtaken = 0, lost = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SimOptions options;
    options.inline_ppm = 0;
    SimWorld world(seed, options);
    world.disk().import_file("/f", std::vector<std::byte>(1024));
    SimProcess process(world);
    bool written = false, before = false;
    auto use = [&](File& file) -> Task<> {
      const std::string a(512, 'A');
      co_await file.write(0, out(a));
      auto sync = [&]() -> Task<> {
        co_await file.sync();
        before = written;
      };
      auto write = [&]() -> Task<> {
        co_await file.write(512, out(a));
        written = true;
      };
      auto both = [&](TaskGroup& group) -> Task<> {
        group.spawn(sync());
        group.spawn(write());
        co_await group.join();
      };
      co_await with_group(process.reactor(), both);
      world.crash();
    };
    EXPECT_TRUE(use_file(process, "/f", writing(), use));
    const std::string left = text_of(world.disk().export_file("/f"));
    EXPECT_EQ(left[0], 'A');
    overtaken += before;
    lost += before && left[512] != 'A';
  }
  EXPECT_GT(overtaken, 50);
  EXPECT_GT(lost, overtaken / 4);
  EXPECT_LT(lost, overtaken);
}

TEST(SimCrash, ASyncOfAFileNamesItWhereNamesAreOrdered) {
  for (const auto names : {SimOptions::Names::posix, SimOptions::Names::ordered}) {
    int found = 0;
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      SimOptions options;
      options.names = names;
      SimWorld world(seed, options);
      SimProcess process(world);
      auto use = [](File& file) -> Task<> { co_await file.sync(); };
      EXPECT_TRUE(use_file(process, "/f", writing(), use));
      world.crash();
      found += world.disk().exists("/f");
    }
    EXPECT_GT(found, 0);
    EXPECT_EQ(found == 40, names == SimOptions::Names::ordered);
  }
}

TEST(SimCrash, TheChangeTimeIsAsOldAsTheLastSyncAtMost) {
  std::set<std::int64_t> found;
  std::int64_t synced = 0, changed = 0;
  for (std::uint64_t crash_seed = 0; crash_seed < 20; ++crash_seed) {
    SimOptions options;
    options.crash_seed = crash_seed;
    SimWorld world(19, options);
    world.disk().import_file("/f", as_bytes("text"));
    SimProcess process(world);
    const std::string x = "x";
    auto use = [&](File& file) -> Task<> {
      co_await file.write(0, out(x));
      co_await file.sync();
      synced = (co_await file.stat()).change_time_ns;
      co_await file.write(0, out(x));
      changed = (co_await file.stat()).change_time_ns;
    };
    EXPECT_TRUE(use_file(process, "/f", writing(), use));
    world.crash();
    SimProcess restarted(world);
    const Result<FileInfo> info = restarted.run(fs::stat(restarted.reactor(), "/f"));
    found.insert(info->change_time_ns);
  }
  EXPECT_LT(synced, changed);
  const std::set<std::int64_t> expected = {synced, changed};
  EXPECT_EQ(found, expected);
}

// A rename after a sync of the file is the way to replace one: old or new, never in between.
TEST(SimCrash, FilesAreReplacedAtomically) {
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
