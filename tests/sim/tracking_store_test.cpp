// The tracking store on a healthy machine, and on one where somebody else has been at its files: locks,
// identity, damage, modes, suspicion.
#include "tests/sim/test_tracking_store.hpp"
#include "tracking/checksum.hpp"
#include "tracking/distrust.hpp"

namespace tidemark::sim {
namespace {

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

// Each of the writes needs a record of its own, and they are more than a half of the log holds.
TEST_F(TrackingStoreTest, AFlushThatTakesLongKeepsNoWriteWaiting) {
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    co_await write(node, 0);                         // or there is nothing to flush
    SimFault slow;
    slow.action = SimFault::Action::delay;
    slow.kind = IoOp::Kind::sync;
    slow.path = image;                               // the next one, for the store's name begins so, too
    slow.delay = std::chrono::seconds(10);
    world.faults().add(slow);
    const Instant began = world.now();
    tracking::Background saving(node.graph().reactor());
    saving.start(node.store()->save());
    for (std::uint64_t granule = 62; granule > 2; granule -= 3) co_await write(node, granule * 4096);
    EXPECT_LT(world.now() - began, std::chrono::seconds(5));
    co_await saving.join();
    EXPECT_GE(world.now() - began, std::chrono::seconds(10));
    world.faults().clear();
  };
  EXPECT_TRUE(session(use, true).ok());
  EXPECT_EQ(look().dirty, 21 * 4096u);
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
  ASSERT_TRUE(reported(StoreReport::Kind::damaged));
  EXPECT_THAT(reports.back().message, testing::EndsWith("its bitmaps are gone"));
  make();
  EXPECT_EQ(look().dirty, 4096u);
}

// What its end held is dirty, and nothing else is lost.
TEST_F(TrackingStoreTest, CutShortItMarksWhatIsMissing) {
  make();
  const auto whole = file(store);
  unsigned marked = 0;
  for (std::size_t size = whole.size(); size >= 4096; size -= std::min<std::size_t>(size, 4096)) {
    world.disk().import_file(store, std::vector<std::byte>(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
    const Found found = look();
    if (found.there) EXPECT_GE(found.dirty, 4096u) << size;
    else EXPECT_TRUE(reported(StoreReport::Kind::damaged)) << size;
    marked += found.there && found.dirty == disk.size;
    reports.clear();
  }
  EXPECT_GT(marked, 0u);
}

// It may be anybody's, so it is for its owner to remove; that is said at once.
TEST_F(TrackingStoreTest, WhatCannotBeKnownForAStoreIsToBeRemovedByHand) {
  make();
  auto bytes = file(store);
  std::fill_n(bytes.begin(), 8192, std::byte{'x'});
  world.disk().import_file(store, bytes);
  EXPECT_FALSE(look().there);
  ASSERT_TRUE(reported(StoreReport::Kind::damaged));
  EXPECT_THAT(reports.back().message, HasSubstr("remove it"));
  EXPECT_EQ(file(store), bytes);
}

// An image that carries marks, and a store of an older program, which gave them no numbers.
struct TrackingMarkTest : TrackingStoreTest {
  TrackingMarkTest() { disk.can_mark = true; }
  // Killed; the image has the mark.
  void make_older() {
    world.disk().import_file(store, {});
    disk.mark = std::nullopt;
    make(true);
    change_roots([](tracking::Superblock& root) { root.mark = 0; });
    disk.mark = 0;
  }
  template <class Change>
  void change_roots(Change change) {
    auto bytes = file(store);
    for (const std::size_t copy : {0u, 4096u}) {
      auto root = tracking::Superblock::decode(Bytes(bytes).subspan(copy, tracking::Superblock::bytes));
      ASSERT_TRUE(root.ok() && *root);
      change(**root);
      const auto encoded = (*root)->encode();
      std::copy(encoded.begin(), encoded.end(), bytes.begin() + static_cast<std::ptrdiff_t>(copy));
    }
    world.disk().import_file(store, bytes);
  }
};

TEST_F(TrackingMarkTest, AMarkWithoutANumberIsThatOfARootWithoutOne) {
  make_older();
  EXPECT_EQ(look().inconsistent, "");
  make_older();
  disk.mark = 5;
  EXPECT_THAT(look().inconsistent, HasSubstr("another program")) << "it is another store's";
  make_older();
  disk.mark = std::nullopt;
  EXPECT_THAT(look().inconsistent, HasSubstr("another program"));
}

TEST_F(TrackingMarkTest, AnOlderRootGetsItsNumberWhenTheImageHasNoMark) {
  make_older();
  std::uint32_t number = 1;
  auto use = [&](TrackedNode& node) -> Task<> {
    number = node.store()->mark();
    co_return;
  };
  ASSERT_TRUE(session(use).ok());
  EXPECT_EQ(number, 0u) << "the mark is there";
  disk.mark = std::nullopt;                        // by the end of the session
  ASSERT_TRUE(session(use, true).ok());
  EXPECT_NE(number, 0u);
  disk.mark = number;
  EXPECT_EQ(look().inconsistent, "");
}

TEST_F(TrackingMarkTest, AStoreThatIsMadeAnewKeepsTheMarkThatTheImageHas) {
  for (const bool older : {false, true}) {
    make_older();
    if (!older) change_roots([](tracking::Superblock& root) { root.mark = 7; });
    if (!older) disk.mark = 7;
    auto use = [&](TrackedNode& node) -> Task<> {
      fail_writes(SimFault::always);
      co_await write(node, 0);
      EXPECT_FALSE(world.disk().exists(store));
      world.faults().clear();
      fail(IoOp::Kind::write, store, 1, 1);        // and once more, when it is made by half
      const Result<> saved = co_await node.store()->save().result();
      EXPECT_FALSE(saved.ok());
      world.faults().clear();
      co_await node.store()->save();
      EXPECT_TRUE(world.disk().exists(store));
      EXPECT_EQ(node.store()->mark(), *disk.mark);
    };
    ASSERT_TRUE(session(use, true).ok());
    EXPECT_EQ(look().inconsistent, "") << older;
  }
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

// Of a device: at the end they are missing from what counts, at the open they are in it.
TEST_F(TrackingStoreTest, WritesOfOthersWhileSamplesAreReadAreFoundByTheirNumber) {
  const std::string device = "/dev/disk";
  world.disk().make_device(device, 1 * MiB, 4096);
  const auto count = [this](const std::string& written) {
    const std::string line = "0 0 0 0 0 0 " + written + " 0 0 0 0 0 0 0 0 0 0\n";
    const Bytes bytes = as_bytes(line);
    world.disk().import_file("/sys/dev/block/0:0/stat", std::vector<std::byte>(bytes.begin(), bytes.end()));
  };
  SimFault slow;
  slow.action = SimFault::Action::delay;
  slow.kind = IoOp::Kind::read;
  slow.path = device;
  slow.delay = std::chrono::seconds(10);
  const auto write_later = [&](Reactor& reactor, std::string written) -> Task<> {
    world.faults().add(slow);
    co_await reactor.sleep(std::chrono::seconds(5));
    count(written);
  };
  SimProcess process(world);
  auto all = [&]() -> Task<> {
    Reactor& reactor = process.reactor();
    tracking::Background first(reactor), second(reactor);
    count("100");
    first.start(write_later(reactor, "200"));
    const auto before = co_await tracking::identify(reactor, device);
    co_await first.join();
    EXPECT_EQ(before.writes.sectors, 100u);
    second.start(write_later(reactor, "300"));
    const auto now = co_await tracking::identify_by(reactor, device, before, before.canaries);
    co_await second.join();
    EXPECT_EQ(now.writes.sectors, 300u);
    EXPECT_EQ(now.canaries, before.canaries);
  };
  const Result<> ran = process.run(all());
  EXPECT_TRUE(ran.ok()) << ran.error().message();
}

// It came after the node was opened, or was not found then.
TEST_F(TrackingStoreTest, OneThatHasBitmapsIsNotMadeAnew) {
  make();
  const auto bytes = file(store);
  world.disk().import_file(store, {});
  auto use = [&](TrackedNode& node) -> Task<> {
    world.disk().import_file(store, bytes);
    const Result<> made = co_await node.add_store().result();
    EXPECT_THAT(made ? "" : made.error().message(), HasSubstr("add it again"));
  };
  EXPECT_TRUE(session(use).ok());
  EXPECT_EQ(file(store), bytes);
  EXPECT_EQ(look().dirty, 4096u);
}

// Or as it was, if the power is cut meanwhile.
TEST_F(TrackingStoreTest, OneThatIsDistrustedWhileNobodyHasItIsInconsistent) {
  for (const bool kill : {false, true}) {
    make(kill);
    auto once = [](Reactor& reactor) -> Task<> {
      const bool told = co_await tracking::distrust(reactor, store, "somebody was here");
      EXPECT_TRUE(told);
      const bool again = co_await tracking::distrust(reactor, store, "and here");
      EXPECT_FALSE(again);
    };
    std::uint64_t found = 0, cut = 1;
    for (;; ++cut) {
      const auto other = world.after_crash(cut);
      other->crash_after_ops(cut);
      {
        SimProcess process(*other);
        (void)process.run(once(process.reactor()));
      }
      const bool crashed = other->crashes() != 0;
      other->crash_after_ops(0);
      machine = other.get();
      const Found now = look();
      machine = &world;
      EXPECT_TRUE(now.there) << cut;
      EXPECT_TRUE(now.inconsistent == "somebody was here" || (crashed && now.inconsistent.empty() && now.dirty == 4096)) << cut;
      found += !now.inconsistent.empty();
      if (!crashed) break;
    }
    EXPECT_GT(cut, 4u);
    EXPECT_GT(found, 1u);
    world.disk().import_file(store, {});
  }
}

TEST_F(TrackingStoreTest, OneThatSomebodyHasIsNotDistrusted) {
  auto use = [this](TrackedNode& node) -> Task<> {
    co_await add(node);
    SimProcess other(world, "other");
    const auto told = other.run(tracking::distrust(other.reactor(), store, "somebody was here"));
    EXPECT_TRUE(!told.ok() && told.error().code() == Errc::busy);
  };
  EXPECT_TRUE(session(use).ok());
  EXPECT_EQ(look().inconsistent, "");
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

}  // namespace
}  // namespace tidemark::sim
