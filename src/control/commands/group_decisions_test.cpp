// Groups that are decided while others are, while threads go, and over disks whose stores hang or are gone.
#include "control/bitmaps/group_decisions.hpp"

#include <gtest/gtest.h>

#include "control/commands/bitmap_commands.hpp"
#include "control/nodes/node_opener.hpp"
#include "control/nodes/read_only.hpp"
#include "io/sim/backend.hpp"
#include "io/threads/threads_backend.hpp"
#include "storage/file.hpp"
#include "task/group.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t size = 4 * MiB;

Result<std::unique_ptr<IoBackend>> no_threads(const ThreadOptions&) { return Error(Errc::unsupported, "no threads here"); }
Result<std::unique_ptr<IoBackend>> make_thread(const ThreadOptions&) { return make_threads_backend(2); }

// Disks a, b and c, each with a persistent bitmap b.
class GroupDecisionsTest : public testing::Test {
 protected:
  GroupDecisionsTest() {
    for (const std::string name : {"a", "b", "c"}) run(add(name));
  }
  ~GroupDecisionsTest() override { (void)reactor.run(homes.close_all()); }

  Task<> add(std::string name) {
    co_await create_file(reactor, "/" + name, size, FilePreallocation::off);
    schema::BlockdevOptionsFile file;
    file.filename = "/" + name;
    schema::BlockdevOptions options;
    options.driver = schema::BlockdevDriver::file;
    options.node_name = name;
    options.branch = std::move(file);
    NodeOpener opener(homes.main().graph);
    (void)co_await opener.add(std::move(options));
    schema::BlockDirtyBitmapAdd add;
    add.node = name;
    add.name = "b";
    add.persistent = true;
    BitmapCommandHandler bitmaps(homes);
    co_await bitmaps.block_dirty_bitmap_add(std::move(add));
  }
  void run(Task<> task) {
    const Result<> done = reactor.run(std::move(task));
    EXPECT_TRUE(done.ok()) << (done ? "" : done.error().message());
  }
  BlockNode& node(std::string_view name) { return *homes.main().graph.find(name); }
  NodeBitmap& bitmap(std::string_view name) { return *node(name).bitmaps().find("b"); }
  void hold(std::string_view name, std::uint64_t group) { bitmap(name).hold_for_group(group, true); }
  Task<> decide(std::uint64_t group, bool& over) {
    JobTransaction::Homes here{&reactor};
    co_await decisions.decide(group, std::move(here));
    over = true;
  }
  Task<> only_read(std::string name) {
    const auto drained = co_await homes.main().graph.drain(node(name));
    co_await set_read_only(node(name), true);
  }
  void hang(std::string store) {
    SimFault fault;
    fault.action = SimFault::Action::hang;
    fault.kind = IoOp::Kind::write;
    fault.path = std::move(store);
    world.faults().add(fault);
  }

  SimWorld world{1};
  SimBackend io{world};
  Reactor reactor{io};
  Homes homes{reactor, no_threads};
  GroupDecisions decisions{homes};
};

TEST_F(GroupDecisionsTest, ADiskThatHangsStopsGroupsOfThatDiskOnly) {
  hold("a", 1);
  hold("b", 1);
  hold("c", 2);
  hang("/a.tidemark");
  bool first = false, other = false, same = false;
  const auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(decide(1, first));
    co_await reactor.sleep(std::chrono::milliseconds(100));
    bitmap("b").drop_with_group(3);
    group.spawn(decide(2, other));
    group.spawn(decide(3, same));
    co_await reactor.sleep(std::chrono::seconds(1));
    EXPECT_FALSE(first);
    EXPECT_TRUE(other);
    EXPECT_FALSE(same);
    world.release_hung();
    co_await group.join();
  };
  run(with_group(reactor, body));
  EXPECT_TRUE(first && same);
}

// Its number is not what it was.
TEST_F(GroupDecisionsTest, AStoreThatWasRemovedIsMadeGoodBeforeOthersRelyOnIt) {
  SimFault fails;
  fails.kind = IoOp::Kind::write;
  fails.path = "/a.tidemark";
  fails.count = SimFault::always;
  world.faults().add(fails);
  const Permissions all{Permissions::write, Permissions::all};
  auto guest = *Edge::attach(node("a"), Role::root, all, "a guest");
  const std::vector<std::byte> data(4096, std::byte{7});
  run(guest->write(0, Buffers::of_const(data)));
  ASSERT_FALSE(world.disk().exists("/a.tidemark"));
  world.faults().clear();
  hold("a", 1);
  hold("b", 1);
  bool over = false;
  run(decide(1, over));
  EXPECT_TRUE(over);
  EXPECT_TRUE(world.disk().exists("/a.tidemark"));
  guest.reset();
}

// The store is where it becomes durable that the group has ended well.
TEST_F(GroupDecisionsTest, ADiskOfAGroupStaysWritable) {
  hold("a", 1);
  bitmap("b").drop_with_group(1);
  for (const std::string name : {"a", "b"}) {
    const Result<> ended = reactor.run(only_read(name));
    ASSERT_FALSE(ended.ok());
    EXPECT_EQ(ended.error().code(), Errc::busy);
    EXPECT_EQ(ended.error().message(), "Node '" + name + "' is busy: bitmap 'b' is part of a transaction whose jobs have not ended");
    EXPECT_NE(node(name).tracking(), nullptr);
  }
  bitmap("a").end_group();
  run(only_read("a"));
}

TEST_F(GroupDecisionsTest, AGroupWithADiskThatIsNotTrackedFails) {
  hold("a", 1);
  hold("b", 1);
  const std::unique_ptr<NodeTracking> tracking = node("a").take_tracking();
  bool over = false;
  const Result<> decided = reactor.run(decide(1, over));
  ASSERT_FALSE(decided.ok());
  EXPECT_EQ(decided.error().message(), "node 'a' does not keep its bitmaps any more");
  run(tracking->before_close());
  run(tracking->after_close());
}

// It is nobody's business where the group has nothing.
TEST(GroupDecisions, AThreadOfOthersGoesMeanwhile) {
  std::unique_ptr<IoBackend> backend = *make_threads_backend(2);
  Reactor reactor(*backend);
  Homes homes(reactor, make_thread);
  GroupDecisions decisions(homes);
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(homes.add_thread("io", {}).ok());
    const auto body = [&](TaskGroup& group) -> Task<> {
      JobTransaction::Homes here{&reactor};
      group.spawn(homes.remove_thread("io"));
      group.spawn(decisions.decide(1, std::move(here)));
      co_await group.join();
    };
    EXPECT_TRUE(reactor.run(with_group(reactor, body)).ok());
  }
}

}  // namespace
}  // namespace tidemark::test
