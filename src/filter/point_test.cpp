// A point in time read while a guest writes: what is read is what was there at the point.
#include "filter/snapshot_access.hpp"
#include "tests/support/test_disks.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint64_t disk_size = 4 * MiB + 12 * KiB;

class PointTest : public testing::Test {
 protected:
  void make(std::uint64_t seed, CopyBeforeWriteOptions options = {}) {
    disks.emplace(seed);
    source = &disks->disk("source", disk_size);
    target = &disks->disk("target", disk_size);
    before = disks->fill(*source);
    // A target that was used before: what is not written to it is not zero.
    disks->fill(*target);
    options.file = source;
    options.target = target;
    auto driver = disks->run(open_copy_before_write(options));
    filter = driver.get();
    disks->add("cbw", std::move(driver));
  }
  void slow(std::uint64_t jitter_ns = 400'000) {
    FaultRule rule;
    rule.jitter_ns = jitter_ns;
    disks->set_faults("source", {rule});
    disks->set_faults("target", {rule});
  }
  Edge& snapshot() {
    BlockNode& node = disks->add("snapshot", disks->run(open_snapshot_access(disks->node("cbw"))));
    return disks->attach(node, "reader");
  }
  Edge& guest_edge() { return disks->attach(disks->node("cbw")); }
  Task<> pause(std::uint64_t ns) { return disks->process.reactor().sleep(Duration(ns)); }

  // Reads pieces of the point at random and compares.
  Task<> read_randomly(Edge& reader, std::uint64_t reads) {
    Prng random(disks->random());
    for (std::uint64_t i = 0; i < reads; ++i) {
      co_await pause(random.below(300'000));
      const std::uint64_t offset = random.below(disk_size / 512) * 512;
      const std::uint64_t length =
          std::min<std::uint64_t>((1 + random.below(500)) * 512, disk_size - offset);
      Content piece(length);
      co_await reader.read(offset, Buffers(MutableBytes(piece)));
      const bool same = std::memcmp(piece.data(), before.data() + offset, length) == 0;
      if (!same) ADD_FAILURE() << "the point differs within " << length << " bytes at " << offset;
    }
  }
  Task<> compare_all(Edge& reader) {
    Content all(disk_size);
    co_await reader.read(0, Buffers(MutableBytes(all)));
    const bool same = all == before;
    if (!same) ADD_FAILURE() << "the point differs";
  }
  Error write_fails(Edge& guest, Range range) {
    const Content data(range.length, std::byte{0x5a});
    return disks->error_of(guest.write(range.offset, Buffers::of_const(data)));
  }
  void write(Edge& guest, Range range) {
    const Content data(range.length, std::byte{0x5a});
    disks->run(guest.write(range.offset, Buffers::of_const(data)));
  }

  std::optional<Disks> disks;
  BlockNode* source = nullptr;
  BlockNode* target = nullptr;
  CopyBeforeWrite* filter = nullptr;
  Content before;
};

TEST_F(PointTest, ReadsWhatWasThereWhileAGuestWrites) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    make(seed);
    Edge& reader = snapshot();
    Guest guest(*disks, guest_edge(), before);
    slow();
    const auto body = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < 3; ++i) group.spawn(read_randomly(reader, 60));
      co_await guest.work(400, 8);
      co_await group.join();
    };
    disks->run(with_group(disks->process.reactor(), body));
    disks->run(compare_all(reader));
    EXPECT_EQ(disks->content_of(*source), guest.content) << "seed " << seed;
    EXPECT_EQ(guest.failed(), 0u);
    EXPECT_TRUE(filter->point().idle());
  }
}

TEST_F(PointTest, CopiesAGranuleOnceForManyWriters) {
  make(2);
  FaultRule slow_write;
  slow_write.op = FaultOp::write;
  slow_write.latency_ns = 1'000'000;
  disks->set_faults("target", {slow_write});
  Content data(64 * KiB, std::byte{7});
  Edge& guest = guest_edge();
  disks->run(source->driver().write(0, Buffers::of_const(data), WriteFlags::none));
  const auto& written = disks->node("target").stats().write;
  const auto before_it = written.operations;
  const auto body = [&](TaskGroup& group) -> Task<> {
    for (std::uint64_t i = 0; i < 16; ++i)
      group.spawn(guest.write(i * 4 * KiB, Buffers::of_const(Bytes(data).first(4 * KiB))));
    co_await group.join();
  };
  disks->run(with_group(disks->process.reactor(), body));
  EXPECT_EQ(written.operations - before_it, 1u);
}

TEST_F(PointTest, AWriteWaitsForItsOwnGranulesOnly) {
  make(3);
  FaultRule stuck;
  stuck.op = FaultOp::write;
  stuck.range = Range{0, 64 * KiB};
  stuck.latency_ns = 1'000'000'000;
  disks->set_faults("target", {stuck});
  const Content data(128 * KiB, std::byte{1});
  disks->run(source->driver().write(0, Buffers::of_const(data), WriteFlags::none));
  Edge& guest = guest_edge();
  Instant first{}, second{};
  const auto timed = [&](std::uint64_t offset, Instant& when) -> Task<> {
    co_await guest.write(offset, Buffers::of_const(Bytes(data).first(4 * KiB)));
    when = disks->process.reactor().now();
  };
  const auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(timed(0, first));
    group.spawn(timed(64 * KiB, second));
    co_await group.join();
  };
  disks->run(with_group(disks->process.reactor(), body));
  EXPECT_LT(second, std::chrono::milliseconds(500));
  EXPECT_GE(first, std::chrono::seconds(1));
}

TEST_F(PointTest, AReaderOfTheSourceHoldsWritersBack) {
  make(4);
  Edge& reader = snapshot();
  Edge& guest = guest_edge();
  // The read is on its way when the write comes, and takes longer than the copy.
  FaultRule slow_read;
  slow_read.op = FaultOp::read;
  slow_read.count = 1;
  slow_read.latency_ns = 10'000'000;
  disks->set_faults("source", {slow_read});
  const Content data(4 * KiB, std::byte{0x77});
  const auto body = [&](TaskGroup& group) -> Task<> {
    Content piece(4 * KiB);
    group.spawn(reader.read(0, Buffers(MutableBytes(piece))));
    group.spawn(guest.write(0, Buffers::of_const(data)));
    co_await group.join();
    const bool old = std::memcmp(piece.data(), before.data(), piece.size()) == 0;
    EXPECT_TRUE(old);
  };
  disks->run(with_group(disks->process.reactor(), body));
  EXPECT_EQ(std::memcmp(disks->content_of(*source).data(), data.data(), data.size()), 0);
}

TEST_F(PointTest, BreakGuestWriteFailsTheWriteAndKeepsThePoint) {
  make(5);
  Edge& reader = snapshot();
  Edge& guest = guest_edge();
  FaultRule broken;
  broken.op = FaultOp::write;
  broken.os_errno = ENOSPC;
  broken.count = 1;
  const Content data(64 * KiB, std::byte{1});
  disks->run(source->driver().write(0, Buffers::of_const(data), WriteFlags::none));
  before = disks->content_of(*source);
  disks->set_faults("target", {broken});
  EXPECT_EQ(write_fails(guest, {0, 4 * KiB}).to_errno(), ENOSPC);
  EXPECT_EQ(disks->content_of(*source), before);
  disks->run(compare_all(reader));
  write(guest, {0, 4 * KiB});  // it has been put right
  disks->run(compare_all(reader));
}

TEST_F(PointTest, BreakSnapshotLetsTheWriteGoOnAndLosesThePoint) {
  CopyBeforeWriteOptions options;
  options.on_cbw_error = OnCbwError::break_snapshot;
  make(6, options);
  Edge& reader = snapshot();
  Edge& guest = guest_edge();
  FaultRule broken;
  broken.op = FaultOp::read;
  broken.os_errno = EIO;
  broken.count = 1;
  disks->run(source->driver().write(0, Buffers::of_const(Content(4 * KiB, std::byte{1})),
                                    WriteFlags::none));
  disks->set_faults("source", {broken});
  write(guest, {0, 4 * KiB});
  EXPECT_EQ(disks->content_of(*source)[0], std::byte{0x5a});
  Content piece(512);
  EXPECT_EQ(disks->error_of(reader.read(0, Buffers(MutableBytes(piece)))).to_errno(), EACCES);
  EXPECT_EQ(disks->error_of(reader.read(MiB, Buffers(MutableBytes(piece)))).to_errno(), EACCES);
  ASSERT_TRUE(filter->point().broken());
  EXPECT_TRUE(filter->point().broken()->reading);
}

TEST_F(PointTest, ACopyThatTakesTooLongIsAFailure) {
  for (const auto policy : {OnCbwError::break_guest_write, OnCbwError::break_snapshot}) {
    CopyBeforeWriteOptions options;
    options.on_cbw_error = policy;
    options.cbw_timeout_s = 3;
    make(7, options);
    Edge& guest = guest_edge();
    disks->run(source->driver().write(0, Buffers::of_const(Content(4 * KiB, std::byte{1})),
                                      WriteFlags::none));
    FaultRule stuck;
    stuck.op = FaultOp::write;
    stuck.latency_ns = 60'000'000'000;
    disks->set_faults("target", {stuck});
    if (policy == OnCbwError::break_guest_write)
      EXPECT_EQ(write_fails(guest, {0, 4 * KiB}).to_errno(), ETIMEDOUT);
    else
      write(guest, {0, 4 * KiB});
    EXPECT_EQ(filter->point().broken().has_value(), policy == OnCbwError::break_snapshot);
    EXPECT_GE(disks->world.now(), std::chrono::seconds(3));
    EXPECT_LT(disks->world.now(), std::chrono::seconds(4));
    // The copy is still under way: drain waits for it.
    { auto drained = disks->run(disks->graph.drain(*source)); }
    EXPECT_GE(disks->world.now(), std::chrono::seconds(60));
  }
}

TEST_F(PointTest, CoversWhatItsBitmapSays) {
  make(8);
  NodeBitmap bitmap("b", align_up(disk_size, 512), 64 * KiB);
  bitmap.bits().set({MiB, 128 * KiB});
  BlockNode& second = disks->disk("second", disk_size);
  CopyBeforeWriteOptions options;
  options.file = &disks->node("cbw");
  options.target = &second;
  options.bitmap = &bitmap;
  auto driver = disks->run(open_copy_before_write(options));
  BlockNode& upper = disks->add("cbw2", std::move(driver));
  BlockNode& view = disks->add("view", disks->run(open_snapshot_access(upper)));
  Edge& reader = disks->attach(view, "reader");
  Edge& guest = disks->attach(upper);
  write(guest, {0, 4 * MiB});
  EXPECT_EQ(disks->node("second").stats().write.bytes, 128 * KiB);
  Content piece(128 * KiB);
  disks->run(reader.read(MiB, Buffers(MutableBytes(piece))));
  EXPECT_EQ(std::memcmp(piece.data(), before.data() + MiB, piece.size()), 0);
  const Error outside = disks->error_of(reader.read(MiB - 512, Buffers(MutableBytes(piece))));
  EXPECT_EQ(outside.to_errno(), EACCES);
}

TEST_F(PointTest, WhatAReaderReleasesIsNotCopiedAnyMore) {
  make(9);
  Edge& reader = snapshot();
  Edge& guest = guest_edge();
  disks->run(reader.discard({MiB - 512, 2 * MiB + 1024}));
  const auto& written = disks->node("target").stats().write;
  const std::uint64_t already = written.bytes;
  write(guest, {0, disk_size});
  EXPECT_LE(written.bytes - already, disk_size - 2 * MiB);
  Content piece(MiB);
  EXPECT_EQ(disks->error_of(reader.read(MiB, Buffers(MutableBytes(piece)))).to_errno(), EACCES);
  disks->run(reader.read(0, Buffers(MutableBytes(piece))));
  EXPECT_EQ(std::memcmp(piece.data(), before.data(), piece.size()), 0);
  // Kept content is forgotten, too, up to the odd end of the disk.
  disks->run(reader.discard({0, disk_size}));
  EXPECT_EQ(disks->error_of(reader.read(disk_size - 512, Buffers(MutableBytes(piece).first(512))))
                .to_errno(),
            EACCES);
}

TEST_F(PointTest, StatusIsThatOfThePoint) {
  make(10);
  Edge& reader = snapshot();
  disks->run(source->driver().write_zeroes({0, MiB}, WriteFlags::may_unmap));
  disks->run(target->driver().write_zeroes({0, disk_size}, WriteFlags::may_unmap));
  EXPECT_EQ(disks->run(reader.map({0, MiB})).mapping, Mapping::zero);
  write(guest_edge(), {64 * KiB, 4 * KiB});
  const Extent extent = disks->run(reader.map({0, MiB}));
  EXPECT_EQ(extent.mapping, Mapping::zero);
  EXPECT_EQ(disks->run(reader.map({64 * KiB, 64 * KiB})).mapping, Mapping::zero);
}

TEST_F(PointTest, DiscardsAreDroppedWhereThePointNeedsThem) {
  CopyBeforeWriteOptions options;
  options.drop_discards = true;
  make(11, options);
  Edge& guest = guest_edge();
  write(guest, {0, 256 * KiB});
  const Content now = disks->content_of(*source);
  disks->run(guest.discard({0, disk_size}));
  Content after = disks->content_of(*source);
  EXPECT_EQ(std::count(after.begin(), after.begin() + 256 * KiB, std::byte{0}), 256 * KiB);
  EXPECT_TRUE(std::equal(after.begin() + 256 * KiB, after.end(), now.begin() + 256 * KiB));
}

// A writer that has waited for room keeps its turn, though part of what it waited for has been copied meanwhile.
TEST_F(PointTest, AWriterKeepsItsTurn) {
  CopyBeforeWriteOptions options;
  StageOptions& staging = options.staging.emplace();
  staging.memory = staging.budget = 1 * MiB;
  staging.spill = false;
  staging.on_full = OnStagingFull::throttle;
  make(15, options);
  Edge& guest = guest_edge();
  const Content data(1 * MiB, std::byte{0x5a});
  disks->run(source->driver().write(0, Buffers::of_const(Content(3 * MiB, std::byte{1})), WriteFlags::none));
  before = disks->content_of(*source);
  std::string order;
  const auto one = [&](std::uint64_t offset, std::uint64_t length, std::string name) -> Task<> {
    co_await guest.write(offset, Buffers::of_const(Bytes(data).first(length)));
    order += name;
  };
  const auto copy = [&](std::uint64_t offset, std::uint64_t length) -> Task<> {
    const Range range{offset, length};
    Content buffer(64 * KiB);
    Point::Stride stride;
    while (filter->point().todo().next_dirty_area(range.offset, range.end()))
      (void)co_await filter->point().copy_some(range, stride, buffer, nullptr);
  };
  const auto body = [&](TaskGroup& group) -> Task<> {
    co_await one(2 * MiB, 1 * MiB, "");
    group.spawn(one(0, 256 * KiB, "first"));
    group.spawn(one(1 * MiB, 256 * KiB, " second"));
    co_await copy(64 * KiB, 64 * KiB);
    co_await pause(1'000'000);
    EXPECT_EQ(order, "");
    co_await copy(2 * MiB, 256 * KiB);
    co_await pause(1'000'000);
    EXPECT_EQ(order, "first");
    co_await copy(0, disk_size);
    co_await group.join();
    EXPECT_EQ(order, "first second");
  };
  disks->run(with_group(disks->process.reactor(), body));
  EXPECT_EQ(disks->content_of(*target), before);
}

TEST_F(PointTest, NobodyWritesPastTheFilterWhileItIsUsed) {
  make(12);
  using P = Permissions;
  const auto writer = [&] {
    return Edge::attach(*source, Role::root, {P::write, P::all}, "other");
  };
  EXPECT_TRUE(writer().ok());  // nobody uses it yet
  Edge& guest = guest_edge();
  auto refused = writer();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message(),
            "Permission conflict on node 'fault-source': permissions 'write' are both required by "
            "other (uses "
            "node 'fault-source' as 'root' child) and unshared by node 'cbw' (uses node "
            "'fault-source' as 'file' "
            "child).");
  (void)guest;
}

TEST_F(PointTest, SnapshotAccessRefusesWritesAndOtherNodes) {
  make(13);
  Edge& reader = snapshot();
  const Content data(512);
  EXPECT_EQ(disks->error_of(reader.write(0, Buffers::of_const(data))).to_errno(), ENOTSUP);
  EXPECT_EQ(disks->error_of(reader.write_zeroes({0, 512})).to_errno(), ENOTSUP);
  EXPECT_EQ(disks->error_of(open_snapshot_access(*source)).message(),
            "snapshot-access: node 'fault-source' is not a copy-before-write filter");
}

TEST_F(PointTest, OptionsThatCannotBe) {
  make(14);
  CopyBeforeWriteOptions options;
  options.file = source;
  options.target = target;
  options.min_cluster_size = 100'000;
  EXPECT_EQ(disks->error_of(open_copy_before_write(options)).message(),
            "min-cluster-size needs to be a power of 2");
  options.min_cluster_size = 0;
  NodeBitmap bitmap("b", MiB, 64 * KiB);
  options.bitmap = &bitmap;
  EXPECT_EQ(
      disks->error_of(open_copy_before_write(options)).message(),
      "Cannot create block-copy-state: Failed to merge bitmap 'b' to internal copy-bitmap: Bitmaps "
      "are of "
      "different sizes (destination size is 4206592, source size is 1048576) and can't be merged");
  options.bitmap = nullptr;
  BlockNode& small = disks->disk("small", MiB);
  options.target = &small;
  EXPECT_EQ(disks->error_of(open_copy_before_write(options)).message(),
            "copy-before-write: target node 'fault-small' is smaller than node 'fault-source'");
}

}  // namespace
}  // namespace tidemark::test
