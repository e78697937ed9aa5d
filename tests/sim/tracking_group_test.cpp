// What several stores do together: a group's changes take effect in all of them or in none.
#include "tests/sim/test_tracking_store.hpp"

namespace tidemark::sim {
namespace {

// A store whose bitmap is clean if group 7 is on record in another, the keeper.
struct TrackingGroupTest : TrackingStoreTest {
  static constexpr std::uint64_t number = 7;

  // Leaves two states of the keeper: without the record, and with it.
  void SetUp() override {
    auto decide = [this](TrackedNode& node) -> Task<> {
      co_await add(node);
      keeper = co_await node.store()->keeper();
      before = file(store);
      co_await node.store()->decide(number, keeper.store);
      after = file(store);
    };
    ASSERT_TRUE(session(decide, true).ok());
    keeper.path = "/d/keeper";
    auto intend = [this](TrackedNode& node) -> Task<> {
      co_await add(node);
      co_await write(node, 8192);
      co_await node.store()->save();
      NodeBitmap& bitmap = *node.node().bitmaps().find("b");
      bitmap.hold_for_group(number, true);
      (void)bitmap.clear();
      co_await node.store()->intend(number, keeper);
    };
    world.disk().import_file(image, std::vector<std::byte>(disk.size));
    remove_store();
    ASSERT_TRUE(session(intend, true).ok());
    intent = file(store);
  }
  void remove_store() {
    SimProcess process(world);
    auto unlink = [&]() -> Task<> { co_await fs::unlink(process.reactor(), store); };
    ASSERT_TRUE(process.run(unlink()).ok());
  }
  bool has_ended_well() {
    const Found found = look();
    EXPECT_TRUE(found.there);
    EXPECT_EQ(found.inconsistent, "");
    return found.dirty == 0;
  }

  GroupKeeper keeper;
  std::vector<std::byte> before, after, intent;
};

TEST_F(TrackingGroupTest, HasEndedWellIfItIsOnRecord) {
  world.disk().import_file(keeper.path, after);
  EXPECT_TRUE(has_ended_well());
}

TEST_F(TrackingGroupTest, HasNotIfItIsNotOnRecord) {
  world.disk().import_file(keeper.path, before);
  EXPECT_FALSE(has_ended_well());
}

// A process that was killed holds the lock until what it had under way has ended.
TEST_F(TrackingGroupTest, ARecordThatIsUnderWayIsWaitedFor) {
  world.disk().import_file(keeper.path, before);
  SimProcess killed(world, "killed");
  bool held = false;
  auto end = [&]() -> Task<> {
    OpenFlags flags;
    flags.write = true;
    File file = co_await File::open(killed.reactor(), keeper.path, flags);
    const LockRequest lock{LockRequest::Mode::exclusive, 0, 1};
    co_await file.lock(lock);
    held = true;
    co_await killed.reactor().sleep(std::chrono::milliseconds(500));
    co_await file.write(0, Buffers::of_const(after));
    co_await file.sync();
    co_await file.close();
  };
  killed.start(end());
  SimProcess waits(world, "waits");
  auto wait = [&]() -> Task<> {
    while (!held) co_await waits.reactor().sleep(std::chrono::milliseconds(1));
  };
  ASSERT_TRUE(waits.run(wait()).ok());
  EXPECT_TRUE(has_ended_well());
  EXPECT_TRUE(killed.join().ok());
}

// Whoever has it for longer is alive, and has settled it.
TEST_F(TrackingGroupTest, AnOwnerWhoLivesIsNotWaitedFor) {
  world.disk().import_file(keeper.path, after);
  SimProcess owner(world, "owner");
  bool held = false, over = false;
  auto own = [&]() -> Task<> {
    tracking::StoreFile file;
    co_await file.open(owner.reactor(), keeper.path, tracking::StoreFile::Use::write);
    held = true;
    while (!over) co_await owner.reactor().sleep(std::chrono::milliseconds(10));
    co_await file.close();
  };
  owner.start(own());
  SimProcess waits(world, "waits");
  auto wait = [&]() -> Task<> {
    while (!held) co_await waits.reactor().sleep(std::chrono::milliseconds(1));
  };
  ASSERT_TRUE(waits.run(wait()).ok());
  EXPECT_TRUE(has_ended_well());
  over = true;
  EXPECT_TRUE(owner.join().ok());
}

// Nothing but a file is opened: what it does to whoever opens it nobody knows.
TEST_F(TrackingGroupTest, AKeeperThatIsNoFileIsLeftAlone) {
  world.disk().make_device(keeper.path, MiB * 64);
  SimProcess process(world);
  auto fill = [&]() -> Task<> {
    OpenFlags flags;
    flags.write = true;
    File file = co_await File::open(process.reactor(), keeper.path, flags);
    const std::size_t whole = after.size() / 512 * 512;
    co_await file.write(0, Buffers::of_const(Bytes(after).first(whole)));
    co_await file.close();
  };
  ASSERT_TRUE(process.run(fill()).ok());
  EXPECT_FALSE(has_ended_well());
}

// The disk is opened, with what is right in any case.
TEST_F(TrackingGroupTest, AKeeperThatDoesNotAnswerIsNotWaitedFor) {
  for (const IoOp::Kind kind : {IoOp::Kind::stat, IoOp::Kind::open, IoOp::Kind::read, IoOp::Kind::sync}) {
    world.disk().import_file(keeper.path, after);
    world.disk().import_file(store, intent);
    SimFault hangs;
    hangs.action = SimFault::Action::hang;
    hangs.kind = kind;
    hangs.path = keeper.path;
    world.faults().add(hangs);
    auto use = [&](TrackedNode& node) -> Task<> {
      EXPECT_EQ(node.node().bitmaps().find("b")->dirty_bytes(), 4096u) << to_string(kind);
      EXPECT_EQ(node.graph().left_behind().count(), 1u) << to_string(kind);
      world.release_hung();
      co_return;
    };
    EXPECT_TRUE(session(use).ok());
    world.faults().clear();
  }
}

// Those that would ask have its old number.
TEST_F(TrackingGroupTest, AKeeperThatWasMadeAnewDecidesNothingForOthers) {
  remove_store();
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    const GroupKeeper old = co_await node.store()->keeper();
    fail_writes(SimFault::always);
    co_await write(node, 0);
    EXPECT_FALSE(world.disk().exists(store));
    world.faults().clear();
    const Result<> decided = co_await node.store()->decide(number, old.store).result();
    EXPECT_FALSE(decided.ok());
    const GroupKeeper present = co_await node.store()->keeper();
    EXPECT_NE(present.store, old.store);
    EXPECT_FALSE(node.store()->failed());
    co_await node.store()->decide(number, present.store);
  };
  const Result<> used = session(use);
  EXPECT_TRUE(used.ok()) << used.error().message();
}

// Somebody may still ask.
TEST_F(TrackingGroupTest, AKeeperWithARecordIsNotRemoved) {
  remove_store();
  auto use = [](TrackedNode& node) -> Task<> {
    co_await add(node);
    const GroupKeeper present = co_await node.store()->keeper();
    co_await node.store()->decide(number, present.store);
    NodeBitmap& bitmap = *node.node().bitmaps().find("b");
    node.node().bitmaps().retire(bitmap);
    bitmap.leave();
  };
  EXPECT_TRUE(session(use).ok());
  EXPECT_TRUE(world.disk().exists(store));
  auto told = [](TrackedNode& node) -> Task<> {
    node.store()->forget_group(number);
    co_return;
  };
  EXPECT_TRUE(session(told).ok());
  EXPECT_FALSE(world.disk().exists(store));
}

}  // namespace
}  // namespace tidemark::sim
