// The tracking store on a healthy machine, and on one where somebody else has been at its files: locks,
// identity, damage, modes, suspicion.
#include <gmock/gmock.h>

#include "io/aligned.hpp"
#include "tests/sim/tracking_workload.hpp"
#include "tracking/checksum.hpp"

namespace tidemark::sim {
namespace {

using tracking::Mode;
using tracking::StoreReport;
using testing::HasSubstr;

const std::string image = "/d/disk", store = "/d/disk.tidemark";

struct TrackingStoreTest : testing::Test {
  TrackingStoreTest() {
    world.disk().make_directory("/d");
    world.disk().import_file(image, std::vector<std::byte>(disk.size));
    set_boot("this boot\n");
    world.disk().sync_all();
  }
  void set_boot(std::string_view id) {
    const Bytes bytes = as_bytes(id);
    machine->disk().import_file("/proc/sys/kernel/random/boot_id", std::vector<std::byte>(bytes.begin(), bytes.end()));
  }

  // use(TrackedNode&) -> Task<>, on a node that is opened and closed in a process of its own.
  template <class Use>
  Result<> session(Use use, bool kill = false) {
    SimProcess process(*machine);
    auto all = [&]() -> Task<> {
      TrackedNode node(process, disk);
      co_await node.open();
      const Result<> used = co_await use(node).result();
      const auto before = node.reports();
      if (kill) process.backend().kill();
      const Result<> closed = co_await node.close().result();
      const auto& told = kill ? before : node.reports();
      reports.insert(reports.end(), told.begin(), told.end());
      co_await unwrap(used);
      if (!kill) co_await unwrap(closed);
    };
    return process.run(all());
  }
  static Task<> add(TrackedNode& node) {
    co_await node.add_store();
    NodeBitmap* bitmap = co_await unwrap(node.node().bitmaps().add("b", node.node().size(), 4096));
    bitmap->set_persistent(true);
    co_await node.store()->save();
  }
  static Task<> write(TrackedNode& node, std::uint64_t offset, std::uint64_t length = 512) {
    AlignedBuffer data(length);
    Buffers(data.bytes()).fill_zero();
    data.data()[0] = std::byte{7};
    co_await node.edge().write(offset, data.bytes());
  }
  void write_as_another() {
    SimProcess other(world, "other");
    auto write_file = [&]() -> Task<> {
      OpenFlags flags;
      flags.write = true;
      File opened = co_await File::open(other.reactor(), image, flags);
      co_await other.reactor().sleep(std::chrono::milliseconds(1));
      std::byte one{1};
      const Buffers data(MutableBytes(&one, 1));
      const Result<> written = co_await opened.write(5, data).result();
      co_await opened.close();
      co_await unwrap(written);
    };
    ASSERT_TRUE(other.run(write_file()).ok());
  }
  void fail(IoOp::Kind kind, const std::string& path, std::uint64_t count, std::uint64_t skip = 0) {
    SimFault fault;
    fault.kind = kind;
    fault.path = path;
    fault.count = count;
    fault.skip = skip;
    world.faults().add(fault);
  }
  void fail_writes(std::uint64_t count) { fail(IoOp::Kind::write, store, count); }
  void make(bool kill = false) {
    auto use = [](TrackedNode& node) -> Task<> {
      co_await add(node);
      co_await write(node, 8192);
    };
    const Result<> made = session(use, kill);
    ASSERT_TRUE(made.ok()) << made.error().message();
  }
  // What is there then.
  struct Found {
    bool there = false;
    std::uint64_t dirty = 0, suspected = 0;
    std::string inconsistent;
  };
  Found look() {
    Found found;
    auto use = [&](TrackedNode& node) -> Task<> {
      const NodeBitmap* bitmap = node.node().bitmaps().find("b");
      if (!bitmap) co_return;
      found = {true, bitmap->dirty_bytes(), bitmap->suspected_bytes(), bitmap->inconsistent_reason()};
    };
    const Result<> looked = session(use);
    EXPECT_TRUE(looked.ok()) << looked.error().message();
    return found;
  }
  std::vector<std::byte> file(const std::string& path) { return world.disk().export_file(path); }
  bool reported(StoreReport::Kind kind) const {
    return std::any_of(reports.begin(), reports.end(), [&](const StoreReport& r) { return r.kind == kind; });
  }

  SimWorld world{1};
  SimWorld* machine = &world;                    // or what a power cut left of it
  TrackedDisk disk;
  std::vector<StoreReport> reports;
};

TEST_F(TrackingStoreTest, IsThereAfterACleanEnd) {
  make();
  const Found found = look();
  EXPECT_TRUE(found.there);
  EXPECT_EQ(found.dirty, 4096u);
  EXPECT_EQ(found.suspected, 0u);
}

TEST_F(TrackingStoreTest, IsThereAfterAKillAndSuspectsWhatWasLogged) {
  make(true);
  const Found found = look();
  EXPECT_TRUE(found.there);
  EXPECT_EQ(found.dirty, 4096u);
  EXPECT_EQ(found.suspected, 4096u);
  EXPECT_EQ(look().suspected, 4096u);                // and says so until somebody looks
}

TEST_F(TrackingStoreTest, WhatIsMarkedAlreadyCostsNothing) {
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    co_await write(node, 8192);
    const std::uint64_t before = world.ops();
    for (int i = 0; i < 20; ++i) co_await write(node, 8192 + 512);
    EXPECT_EQ(world.ops() - before, 20u);
  };
  EXPECT_TRUE(session(use).ok());
}

TEST_F(TrackingStoreTest, WithoutBitmapsItIsRemoved) {
  make();
  EXPECT_TRUE(world.disk().exists(store));
  auto use = [](TrackedNode& node) -> Task<> {
    NodeBitmap& bitmap = *node.node().bitmaps().find("b");
    node.node().bitmaps().retire(bitmap);
    bitmap.leave();
    co_await node.store()->save();
    EXPECT_TRUE(node.node().bitmaps().retired().empty());
  };
  EXPECT_TRUE(session(use).ok());
  EXPECT_FALSE(world.disk().exists(store));
  EXPECT_FALSE(look().there);
}

TEST_F(TrackingStoreTest, TwoCannotOpenOne) {
  make();
  auto use = [this](TrackedNode&) -> Task<> {
    SimProcess other(world, "other");
    auto open = [&]() -> Task<> {
      tracking::StoreFile file;
      co_await file.open(other.reactor(), store, tracking::StoreFile::Use::make);
      co_await file.close();
    };
    const Result<> opened = other.run(open());
    const std::string why = opened ? "" : opened.error().message();
    EXPECT_EQ(why, "tracking store '/d/disk.tidemark' is in use by another node or process");
    co_return;
  };
  EXPECT_TRUE(session(use).ok());
}

TEST_F(TrackingStoreTest, AnImageThatWasWrittenMeanwhileIsFound) {
  make();
  write_as_another();
  EXPECT_EQ(look().inconsistent, "the image was changed while the store was closed");
  EXPECT_EQ(look().inconsistent, "the image was changed while the store was closed");   // for good
}

// The disk cannot be flushed, so the log counts; but what is written later by others is found as after any orderly end.
TEST_F(TrackingStoreTest, AnEndWithoutALastCheckpointIsTold) {
  make();
  for (const bool others : {false, true}) {
    auto use = [this](TrackedNode& node) -> Task<> {
      co_await write(node, 65536);
      fail(IoOp::Kind::sync, image, 1);
    };
    (void)session(use);
    ASSERT_TRUE(reported(StoreReport::Kind::failed));
    EXPECT_THAT(reports.back().message, HasSubstr("its log counts at the next start"));
    reports.clear();
    if (others) write_as_another();
    const Found found = look();
    EXPECT_EQ(found.inconsistent, others ? "the image was changed while the store was closed" : "");
    EXPECT_EQ(found.dirty, others ? 0 : 2 * 4096u) << others;
  }
}

// Nobody can tell later what was written to it.
TEST_F(TrackingStoreTest, AnImageThatIsNotWhereItWasAtTheEndHasLostItsMarks) {
  make();
  auto use = [](TrackedNode& node) -> Task<> { co_await fs::rename(node.node().reactor(), image, "/d/away"); };
  (void)session(use);
  EXPECT_TRUE(reported(StoreReport::Kind::failed));
  SimProcess process(world);
  auto back = [&]() -> Task<> { co_await fs::rename(process.reactor(), "/d/away", image); };
  ASSERT_TRUE(process.run(back()).ok());
  EXPECT_EQ(look().dirty, disk.size);
}

TEST_F(TrackingStoreTest, AnotherImageInItsPlaceIsFoundEvenAfterAKill) {
  make(true);
  world.disk().import_file(image, file(image));                  // same content, another file
  EXPECT_EQ(look().inconsistent, "the image is another file than the store's");
}

TEST_F(TrackingStoreTest, ASizeThatChangedIsFound) {
  make();
  disk.size *= 2;
  auto bytes = file(image);
  bytes.resize(disk.size);
  world.disk().import_file(image, bytes);
  EXPECT_NE(look().inconsistent, "");
}

TEST_F(TrackingStoreTest, ARottenSegmentIsSuspectedWhole) {
  make();
  auto bytes = file(store);
  bool found = false;
  for (std::size_t at = 8192 + 2 * disk.log_bytes; at < bytes.size(); at += 4096) {
    if (bytes[at] != std::byte{2} || !is_zero(Bytes(bytes).subspan(at + 1, 4095))) continue;
    bytes[at] = std::byte{9};             // granule 2, sparse
    found = true;
  }
  ASSERT_TRUE(found);
  world.disk().import_file(store, bytes);
  const Found now = look();
  EXPECT_EQ(now.inconsistent, "");
  EXPECT_EQ(now.dirty, disk.size);
  EXPECT_EQ(now.suspected, disk.size);
}

TEST_F(TrackingStoreTest, ARottenLogIsSuspectedWhole) {
  make(true);
  auto bytes = file(store);
  bool found = false;
  for (std::size_t half = 8192; half < 8192 + 2 * disk.log_bytes; half += disk.log_bytes)
    if (load_le<std::uint32_t>(&bytes[half]) != 0) bytes[half + 50] ^= std::byte{1}, found = true;
  ASSERT_TRUE(found);
  world.disk().import_file(store, bytes);
  EXPECT_EQ(look().dirty, disk.size);
}

TEST_F(TrackingStoreTest, OneRottenRootDoesNoHarm) {
  for (const std::size_t copy : {0u, 4096u}) {
    world.disk().import_file(store, {});
    make(true);
    auto bytes = file(store);
    bytes[copy + 100] ^= std::byte{1};
    world.disk().import_file(store, bytes);
    EXPECT_EQ(look().dirty, 4096u) << copy;
  }
}

TEST_F(TrackingStoreTest, WithBothRootsRottenItIsDamagedAndMadeAnew) {
  make();
  auto bytes = file(store);
  bytes[100] ^= std::byte{1};
  bytes[4196] ^= std::byte{1};
  world.disk().import_file(store, bytes);
  EXPECT_FALSE(look().there);
  EXPECT_TRUE(reported(StoreReport::Kind::damaged));
  make();
  EXPECT_EQ(look().dirty, 4096u);
}

TEST_F(TrackingStoreTest, ModeProcessEndsWithTheHost) {
  disk.mode = Mode::process;
  make(true);
  EXPECT_EQ(look().dirty, 4096u);
  auto nothing = [](TrackedNode&) -> Task<> { co_return; };
  EXPECT_TRUE(session(nothing, true).ok());
  set_boot("another boot\n");
  EXPECT_THAT(look().inconsistent, HasSubstr("the host went down"));
}

struct TrackingModeTest : TrackingStoreTest, testing::WithParamInterface<std::tuple<bool, Mode>> {};

// A root of before, which claims more, must not come back.
TEST_P(TrackingModeTest, IsNotTakenForAnotherAfterAPowerCut) {
  const auto [kill, mode] = GetParam();
  make(kill);
  disk.mode = mode;
  auto use = [](TrackedNode& node) { return write(node, 64 * KiB); };
  ASSERT_TRUE(session(use, true).ok());
  for (std::uint64_t fate = 1; fate <= 40; ++fate) {
    const std::unique_ptr<SimWorld> left = world.after_crash(fate);
    machine = left.get();
    set_boot("another boot\n");
    const Found found = look();
    EXPECT_FALSE(found.there && found.inconsistent.empty()) << "fate " << fate;
  }
}

INSTANTIATE_TEST_SUITE_P(Tracking, TrackingModeTest,
                         testing::Combine(testing::Bool(), testing::Values(Mode::process, Mode::off)));

TEST_F(TrackingStoreTest, ModeOffNeedsACleanEnd) {
  disk.mode = Mode::off;
  make();
  EXPECT_EQ(look().dirty, 4096u);
  auto nothing = [](TrackedNode&) -> Task<> { co_return; };
  EXPECT_TRUE(session(nothing, true).ok());
  EXPECT_EQ(look().inconsistent, "the image was not closed, and its tracking was off");
}

TEST_F(TrackingStoreTest, AFailingDeviceStopsNoWriteAndIsMadeGood) {
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    fail_writes(1);
    co_await write(node, 0);
    EXPECT_TRUE(node.store()->failed());
    co_await write(node, 65536);
    co_await node.store()->save();
    EXPECT_FALSE(node.store()->failed());
    co_await write(node, 2 * 65536);
  };
  ASSERT_TRUE(session(use, true).ok());
  ASSERT_EQ(reports.size(), 2u);
  EXPECT_THAT(reports[0].message, HasSubstr("wholly dirty after a crash"));
  EXPECT_EQ(reports[1].kind, StoreReport::Kind::recovered);
  EXPECT_EQ(look().dirty, 3 * 4096u);
}

TEST_F(TrackingStoreTest, AStoreThatCannotEvenSaySoIsRemoved) {
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    fail_writes(SimFault::always);
    co_await write(node, 0);
    EXPECT_FALSE(world.disk().exists(store));
    world.faults().clear();
    co_await write(node, 65536);
    co_await node.store()->save();
    EXPECT_TRUE(world.disk().exists(store));
  };
  ASSERT_TRUE(session(use, true).ok());
  EXPECT_EQ(look().dirty, 2 * 4096u);
}

// The first root is written by half, and the file cannot be removed: it claims nothing, and the disk can be opened.
TEST_F(TrackingStoreTest, OneThatFailsWhileItIsMadeClaimsNothing) {
  fail(IoOp::Kind::unlink, store, 2);
  fail(IoOp::Kind::write, store, 1, 4);              // after an empty file, two catalogues and one copy of the root
  auto use = [](TrackedNode& node) -> Task<> {
    const Result<> added = co_await add(node).result();
    EXPECT_FALSE(added.ok());
  };
  (void)session(use, true);
  ASSERT_TRUE(world.disk().exists(store));
  const auto bytes = file(store);
  EXPECT_TRUE(is_zero(Bytes(bytes).subspan(8, 8184)));          // both roots; the file is known for what it is
  EXPECT_FALSE(look().there);
}

TEST_F(TrackingStoreTest, LostMarksAtACrashMeanAllDirty) {
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    fail_writes(1);
    co_await write(node, 0);
    co_await write(node, 65536);
  };
  ASSERT_TRUE(session(use, true).ok());
  const Found found = look();
  EXPECT_EQ(found.dirty, disk.size);
  EXPECT_EQ(found.suspected, disk.size);
}

TEST_F(TrackingStoreTest, SuspicionIsClearedWhereTheContentIsAsItWas) {
  make(true);
  auto use = [](TrackedNode& node) -> Task<> {
    NodeBitmap& bitmap = *node.node().bitmaps().find("b");
    bitmap.acquit({8192, 4096});
    bitmap.release_kept();
    co_await node.store()->save();
  };
  ASSERT_TRUE(session(use, true).ok());
  const Found found = look();
  EXPECT_EQ(found.dirty, 0u);
  EXPECT_EQ(found.suspected, 0u);
}

TEST_F(TrackingStoreTest, ANewerFormatIsLeftAlone) {
  make();
  auto use = [](TrackedNode&) -> Task<> { co_return; };
  auto bytes = file(store);
  for (const std::size_t copy : {0u, 4096u}) {
    bytes[copy + 8] = std::byte{3};
    store_le(&bytes[copy + 4088], tracking::checksum(Bytes(bytes).subspan(copy, 4088), 0));
  }
  world.disk().import_file(store, bytes);
  const Result<> opened = session(use);
  ASSERT_FALSE(opened.ok());
  EXPECT_EQ(opened.error().code(), Errc::unsupported);
  EXPECT_EQ(file(store), bytes);
}

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
