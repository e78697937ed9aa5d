// Files and devices as disks, on the simulation: opening and its errors, odd sizes, locks, flushes
// that failed, making files.
#include "storage/file.hpp"

#include <gtest/gtest.h>

#include "block/graph.hpp"
#include "io/aligned.hpp"
#include "io/sim/process.hpp"
#include "storage/file_driver.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using Driver = std::unique_ptr<BlockDriver>;

SimOptions steady() {
  SimOptions options;
  options.short_file_ppm = 0;
  options.inline_ppm = 0;
  return options;
}

class FileTest : public testing::Test {
 protected:
  FileTest() { world.disk().make_directory("/d"); }

  void put(const std::string& path, std::size_t size, int fill = 1) {
    const std::vector<std::byte> content(size, static_cast<std::byte>(fill));
    world.disk().import_file(path, content);
  }
  template <class T>
  T run(Task<T> task) {
    Result<T> outcome = process.run(std::move(task));
    if (!outcome) ADD_FAILURE() << outcome.error().message();
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
  }
  template <class T>
  Error error_of(Task<T> task) {
    const Result<T> outcome = process.run(std::move(task));
    EXPECT_FALSE(outcome.ok());
    return outcome ? Error(Errc::io, "it succeeded") : outcome.error();
  }
  FileOptions named(std::string filename, bool read_only = false) {
    FileOptions options;
    options.filename = std::move(filename);
    options.read_only = read_only;
    return options;
  }
  std::string open_error(FileOptions options) {
    return error_of(open_file(reactor, std::move(options))).message();
  }
  std::string device_error(FileOptions options) {
    return error_of(open_host_device(reactor, std::move(options))).message();
  }
  void create(const std::string& path, std::uint64_t size,
              FilePreallocation preallocation = FilePreallocation::off) {
    run(create_file(reactor, path, size, preallocation));
  }
  void fail(IoOp::Kind kind, int os_errno, std::uint64_t count = 1) {
    SimFault fault;
    fault.kind = kind;
    fault.os_errno = os_errno;
    fault.count = count;
    world.faults().add(std::move(fault));
  }

  SimWorld world{1, steady()};
  SimProcess process{world};
  Reactor& reactor = process.reactor();
};

TEST_F(FileTest, ErrorsOfOpeningAreQemus) {
  put("/d/a", 512);
  world.disk().make_device("/d/dev", 1 * MiB);
  world.disk().make_device("/d/ro", 1 * MiB, 512, true);
  EXPECT_EQ(open_error(named("/d/none")), "Could not open '/d/none': No such file or directory");
  EXPECT_EQ(open_error(named("/d")), "Could not open '/d': Is a directory");
  EXPECT_EQ(open_error(named("/d", true)), "'file' driver requires '/d' to be a regular file");
  EXPECT_EQ(open_error(named("/d/dev")), "'file' driver requires '/d/dev' to be a regular file");
  EXPECT_EQ(open_error(named("")), "The 'file' block driver requires a file name");
  EXPECT_EQ(device_error(named("/d/a")),
            "'host_device' driver requires '/d/a' to be a block device");
  EXPECT_EQ(device_error(named("/d/none")), "Could not open '/d/none': No such file or directory");
  EXPECT_EQ(error_of(open_host_device(reactor, named("/d/ro"))).code(), Errc::permission);
  FileOptions shared = named("/d/a");
  shared.force_share = true;
  EXPECT_EQ(open_error(shared), "force-share=on can only be used with read-only images");
}

TEST_F(FileTest, TellsWhatItIs) {
  put("/d/a", 1000);
  const Driver file = run(open_file(reactor, named("/d/a")));
  EXPECT_EQ(file->name(), "file");
  EXPECT_EQ(file->size(), 1000u);
  EXPECT_EQ(file->limits().request_align, 1u);
  const ImageInfo info = run(file->info());
  EXPECT_EQ(info.filename, "/d/a");
  EXPECT_EQ(info.format, "file");
  EXPECT_EQ(info.virtual_size, 1024u);
  EXPECT_TRUE(info.actual_size.has_value());
  run(file->close());
}

TEST_F(FileTest, LimitsFollowTheDevice) {
  world.disk().make_device("/d/dev", 1 * MiB, 4096);
  FileOptions options = named("/d/dev");
  options.direct = true;
  const Driver direct = run(open_host_device(reactor, options));
  EXPECT_EQ(direct->name(), "host_device");
  EXPECT_EQ(direct->limits().request_align, 4096u);
  EXPECT_EQ(direct->limits().memory_align, 4096u);
  EXPECT_EQ(error_of(direct->truncate(512)).message(), "Cannot resize device files");
  run(direct->close());
  const Driver buffered = run(open_host_device(reactor, named("/d/dev")));
  EXPECT_EQ(buffered->limits().request_align, 1u);
  EXPECT_EQ(buffered->limits().write_zeroes_align, 4096u);
  EXPECT_EQ(buffered->limits().discard_align, 4096u);
  EXPECT_EQ(buffered->limits().max_zeroes, 64 * MiB);
  run(buffered->close());
  world.disk().make_device("/d/small", 1 * MiB, 512);
  const Driver cached = run(open_host_device(reactor, named("/d/small")));
  EXPECT_EQ(cached->limits().write_zeroes_align, 4096u);               // the page cache's
  run(cached->close());
}

TEST_F(FileTest, ReadsZeroBehindAnOddEnd) {
  put("/d/a", 1000, 7);
  const Driver file = run(open_file(reactor, named("/d/a")));
  std::vector<std::byte> sector(512, std::byte{9});
  run(file->read(512, Buffers(sector)));
  EXPECT_EQ(sector[487], std::byte{7});
  EXPECT_TRUE(is_zero(Bytes(sector).subspan(488)));
  EXPECT_EQ(file->size(), 1000u);
  run(file->write(512, Buffers(sector), WriteFlags::none));
  EXPECT_EQ(file->size(), 1024u);
  run(file->close());
  EXPECT_EQ(world.disk().export_file("/d/a").size(), 1024u);
}

// A disk whose last direct-I/O unit is not whole keeps its size when that unit is written.
TEST_F(FileTest, PaddingDoesNotGrowTheFile) {
  world.options().logical_block = 4096;
  put("/d/a", 4096 + 512, 7);
  FileOptions options = named("/d/a");
  options.direct = true;
  Graph graph(reactor);
  BlockNode& node = *run(graph.add({}, run(open_file(reactor, options))));
  EXPECT_EQ(node.limits().request_align, 4096u);
  const Permissions writer{Permissions::write, Permissions::all};
  auto edge = *Edge::attach(node, Role::root, writer, "test");
  const std::vector<std::byte> sector(512, std::byte{5});
  for (const WriteFlags flags : {WriteFlags::none, WriteFlags::fua}) {
    run(edge->write(4096, Buffers::of_const(sector), flags));
    EXPECT_EQ(node.size(), 4096u + 512);
  }
  run(edge->write(0, Buffers::of_const(sector)));
  edge.reset();
  run(graph.close_all());
  const auto content = world.disk().export_file("/d/a");
  ASSERT_EQ(content.size(), 4096u + 512);
  EXPECT_EQ(content[0], std::byte{5});
  EXPECT_EQ(content[512], std::byte{7});
  EXPECT_EQ(content[4096], std::byte{5});
}

TEST_F(FileTest, MapsDataAndHoles) {
  create("/d/a", 1 * MiB);
  const Driver file = run(open_file(reactor, named("/d/a")));
  const std::vector<std::byte> data(64 * KiB, std::byte{1});
  run(file->write(128 * KiB, Buffers::of_const(data), WriteFlags::none));
  const Range all{0, 1 * MiB}, rest{160 * KiB, 512 * KiB};
  const Extent hole = run(file->map(all));
  EXPECT_EQ(hole.mapping, Mapping::zero);
  EXPECT_EQ(hole.range, (Range{0, 128 * KiB}));
  for (int i = 0; i < 2; ++i) {  // found, then remembered
    const Extent stored = run(file->map(rest));
    EXPECT_EQ(stored.mapping, Mapping::data);
    EXPECT_EQ(stored.range, (Range{160 * KiB, 32 * KiB}));
    EXPECT_EQ(stored.host_offset, 160 * KiB);
  }
  run(file->discard({128 * KiB, 64 * KiB}));
  EXPECT_EQ(run(file->map(rest)).mapping, Mapping::zero);
  run(file->close());
}

TEST_F(FileTest, ZeroesAndDiscards) {
  put("/d/a", 256 * KiB);
  const Driver file = run(open_file(reactor, named("/d/a")));
  const std::uint64_t before = *run(file->info()).actual_size;
  run(file->write_zeroes({0, 64 * KiB}, WriteFlags::none));
  EXPECT_EQ(*run(file->info()).actual_size, before);
  run(file->write_zeroes({64 * KiB, 64 * KiB}, WriteFlags::may_unmap));
  EXPECT_LT(*run(file->info()).actual_size, before);
  run(file->discard({128 * KiB, 64 * KiB}));
  std::vector<std::byte> got(256 * KiB);
  run(file->read(0, Buffers(got)));
  EXPECT_TRUE(is_zero(Bytes(got).first(192 * KiB)));
  EXPECT_EQ(got[192 * KiB], std::byte{1});
  EXPECT_EQ(file->size(), 256 * KiB);
  run(file->close());
}

TEST_F(FileTest, RemembersWhatTheFileSystemRefuses) {
  put("/d/a", 256 * KiB);
  const Driver file = run(open_file(reactor, named("/d/a")));
  fail(IoOp::Kind::allocate, EOPNOTSUPP, 2);
  const Range range{0, 4096};
  EXPECT_EQ(error_of(file->write_zeroes(range, WriteFlags::may_unmap)).code(), Errc::unsupported);
  // Both ways were tried, and are not tried again, though the disk would now.
  EXPECT_EQ(error_of(file->write_zeroes(range, WriteFlags::none)).code(), Errc::unsupported);
  EXPECT_EQ(error_of(file->discard(range)).code(), Errc::unsupported);
  run(file->close());
}

TEST_F(FileTest, FastZeroingOfADeviceNeverFallsBack) {
  world.disk().make_device("/d/dev", 1 * MiB);
  const Driver device = run(open_host_device(reactor, named("/d/dev")));
  const Range range{0, 64 * KiB};
  EXPECT_EQ(error_of(device->write_zeroes(range, WriteFlags::no_fallback)).code(),
            Errc::unsupported);
  run(device->write_zeroes(range, WriteFlags::no_fallback | WriteFlags::may_unmap));
  run(device->write_zeroes(range, WriteFlags::none));
  run(device->close());
}

// Somebody else's pages are in the way: only now, so it is tried again.
TEST_F(FileTest, ADeviceThatIsBusyIsZeroedByWriting) {
  world.disk().make_device("/d/dev", 1 * MiB);
  Graph graph(reactor);
  BlockNode& node = *run(graph.add({}, run(open_host_device(reactor, named("/d/dev")))));
  auto edge = *Edge::attach(node, Role::root, {Permissions::write, Permissions::all}, "test");
  const Range range{0, 64 * KiB};
  std::vector<std::byte> data(range.length, std::byte{5});
  run(edge->write(0, Buffers(data)));
  fail(IoOp::Kind::allocate, EBUSY, 2);
  run(edge->write_zeroes(range, WriteFlags::may_unmap));
  run(edge->read(0, Buffers(data)));
  EXPECT_TRUE(is_zero(data));
  fail(IoOp::Kind::allocate, EBUSY);
  run(edge->discard(range));
  run(edge->write_zeroes(range, WriteFlags::may_unmap | WriteFlags::no_fallback));
  edge.reset();
  run(graph.remove(node));
}

TEST_F(FileTest, WhatADeviceHasGrownByBecomesZeroes) {
  world.disk().make_device("/d/dev", 1 * MiB);
  FileOptions options = named("/d/dev");
  options.locking = false;
  for (const bool busy : {false, true}) {
    world.disk().resize_device("/d/dev", 1 * MiB);
    const Driver device = run(open_host_device(reactor, options));
    world.disk().resize_device("/d/dev", 2 * MiB);
    const Driver other = run(open_host_device(reactor, options));
    std::vector<std::byte> data(1 * MiB, std::byte{5});
    run(other->write(1 * MiB, Buffers(data), WriteFlags::none));
    EXPECT_EQ(device->size(), 1 * MiB);
    EXPECT_EQ(error_of(device->truncate(2 * MiB + 512)).message(), "Cannot grow device files");
    if (busy) fail(IoOp::Kind::allocate, EBUSY);
    run(device->truncate(3 * MiB / 2));
    EXPECT_EQ(device->size(), 3 * MiB / 2);
    EXPECT_EQ(error_of(device->truncate(1 * MiB)).message(), "Cannot resize device files");
    run(device->truncate(2 * MiB, Growth::as_it_is));
    run(device->read(1 * MiB, Buffers(data)));
    EXPECT_TRUE(is_zero(Bytes(data).first(512 * KiB)));
    EXPECT_EQ(data[512 * KiB], std::byte{5});
    run(other->close());
    run(device->close());
  }
}

TEST_F(FileTest, ADeviceThatHasBecomeSmallerEndsWithAnError) {
  world.disk().make_device("/d/dev", 1 * MiB);
  const Driver device = run(open_host_device(reactor, named("/d/dev")));
  world.disk().resize_device("/d/dev", 512 * KiB);
  std::vector<std::byte> data(64 * KiB);
  run(device->read(448 * KiB, Buffers(data)));
  EXPECT_EQ(error_of(device->read(480 * KiB, Buffers(data))).to_errno(), EIO);
  EXPECT_EQ(error_of(device->read(768 * KiB, Buffers(data))).to_errno(), EIO);
  EXPECT_EQ(run(device->map({768 * KiB, 4096})).mapping, Mapping::data);
  run(device->truncate(512 * KiB));
  EXPECT_EQ(device->size(), 512 * KiB);
  run(device->close());
}

TEST_F(FileTest, TruncatesFiles) {
  put("/d/a", 4096);
  const Driver file = run(open_file(reactor, named("/d/a")));
  run(file->truncate(1 * MiB));
  EXPECT_EQ(file->size(), 1 * MiB);
  run(file->truncate(1000));
  EXPECT_EQ(file->size(), 1000u);
  EXPECT_EQ(error_of(file->truncate(~std::uint64_t{0})).code(), Errc::out_of_range);
  EXPECT_EQ(file->size(), 1000u);
  run(file->close());
}

// After a failed write-back the kernel has forgotten what it could not write.
TEST_F(FileTest, AFailedFlushIsNeverForgotten) {
  put("/d/a", 4096);
  const Driver file = run(open_file(reactor, named("/d/a")));
  run(file->flush());
  fail(IoOp::Kind::sync, EIO);
  EXPECT_TRUE(file->lost_by(error_of(file->flush())));
  const Error again = error_of(file->flush());
  EXPECT_EQ(again.to_errno(), EIO);
  EXPECT_FALSE(file->lost_by(again)) << "it is the same loss";
  const std::vector<std::byte> data(512);
  EXPECT_EQ(error_of(file->write(0, Buffers::of_const(data), WriteFlags::fua)).to_errno(), EIO);
  run(file->write(0, Buffers::of_const(data), WriteFlags::none));
  run(file->close());
}

TEST_F(FileTest, IsOpenedAnewOnceAllIsDurable) {
  put("/d/a", 4096);
  const Driver file = run(open_file(reactor, named("/d/a")));
  fail(IoOp::Kind::sync, EIO);
  EXPECT_EQ(error_of(file->flush()).to_errno(), EIO);
  fail(IoOp::Kind::sync, ENOSPC);
  EXPECT_EQ(error_of(file->open_anew()).to_errno(), ENOSPC);
  EXPECT_EQ(error_of(file->flush()).to_errno(), EIO);
  run(file->open_anew());
  run(file->flush());
  const std::vector<std::byte> data(512);
  run(file->write(0, Buffers::of_const(data), WriteFlags::fua));
  run(file->close());
}

TEST_F(FileTest, ARefusedWriteIsNoLoss) {
  put("/d/a", 4096);
  const Driver file = run(open_file(reactor, named("/d/a")));
  const std::vector<std::byte> data(512);
  fail(IoOp::Kind::write, ENOSPC, 2);
  EXPECT_EQ(error_of(file->write(0, Buffers::of_const(data), WriteFlags::fua)).to_errno(), ENOSPC);
  run(file->flush());
  run(file->write(0, Buffers::of_const(data), WriteFlags::fua));
  // Taken, and not made durable: that is one.
  fail(IoOp::Kind::write, ENOSPC);
  EXPECT_EQ(error_of(file->write(0, Buffers::of_const(data), WriteFlags::fua)).to_errno(), ENOSPC);
  EXPECT_EQ(error_of(file->flush()).to_errno(), ENOSPC);
  run(file->close());
}

// It is reported to one of those who ask at the same time only.
TEST_F(FileTest, AFlushBesideOneThatFailsHasFailed) {
  put("/d/a", 4096);
  const Driver file = run(open_file(reactor, named("/d/a")));
  fail(IoOp::Kind::sync, EIO);
  SimFault late;
  late.kind = IoOp::Kind::sync;
  late.action = SimFault::Action::delay;
  late.delay = std::chrono::seconds(1);
  world.faults().add(late);
  Result<> first, second;
  const auto keep = [&](Result<>& outcome) -> Task<> { outcome = co_await file->flush().result(); };
  const auto both = [&](TaskGroup& group) -> Task<> {
    group.spawn(keep(first));
    group.spawn(keep(second));
    co_await group.join();
  };
  run(with_group(reactor, both));
  EXPECT_FALSE(first.ok());
  EXPECT_FALSE(second.ok());
  run(file->close());
}

TEST_F(FileTest, DirectFlushesRecover) {
  put("/d/a", 4096);
  FileOptions options = named("/d/a");
  options.direct = true;
  const Driver file = run(open_file(reactor, options));
  fail(IoOp::Kind::sync, EIO);
  EXPECT_EQ(error_of(file->flush()).to_errno(), EIO);
  run(file->flush());
  run(file->close());
}

TEST_F(FileTest, FlushedAndFuaWritesSurviveACrash) {
  put("/d/a", 8192, 0);
  const Driver file = run(open_file(reactor, named("/d/a")));
  const std::vector<std::byte> data(4096, std::byte{3});
  run(file->write(0, Buffers::of_const(data), WriteFlags::none));
  run(file->flush());
  run(file->write(4096, Buffers::of_const(data), WriteFlags::fua));
  world.crash();
  (void)process.run(file->close());
  const auto content = world.disk().export_file("/d/a");
  EXPECT_EQ(content, std::vector<std::byte>(8192, std::byte{3}));
}

TEST_F(FileTest, AWriterKeepsOthersOut) {
  put("/d/a", 4096);
  const Driver writer = run(open_file(reactor, named("/d/a")));
  EXPECT_EQ(open_error(named("/d/a")),
            "Failed to get \"write\" lock: is another process using the image '/d/a'?");
  EXPECT_EQ(open_error(named("/d/a", true)),
            "Failed to get shared \"write\" lock: is another process using the image '/d/a'?");
  FileOptions shared = named("/d/a", true);
  shared.force_share = true;
  run(run(open_file(reactor, shared))->close());
  FileOptions unlocked = named("/d/a");
  unlocked.locking = false;
  run(run(open_file(reactor, unlocked))->close());
  run(writer->close());
  run(run(open_file(reactor, named("/d/a")))->close());
}

// What a killed daemon had under way ends a moment after it, and its locks with that.
TEST_F(FileTest, WhoIsAboutToGoIsWaitedFor) {
  put("/d/a", 4096);
  const Driver last = run(open_file(reactor, named("/d/a")));
  Driver opened;
  const auto open = [&]() -> Task<> { opened = co_await open_file(reactor, named("/d/a")); };
  const auto go = [&](TaskGroup& group) -> Task<> {
    group.spawn(open());
    co_await reactor.sleep(std::chrono::milliseconds(70));
    co_await last->close();
    co_await group.join();
  };
  run(with_group(reactor, go));
  run(opened->close());
}

// Who had the lock until now may have resized it.
TEST_F(FileTest, ItsSizeIsThatUnderTheLock) {
  put("/d/a", 4096);
  SimFault late;
  late.kind = IoOp::Kind::lock;
  late.path = "/d/a";
  late.action = SimFault::Action::delay;
  late.delay = std::chrono::seconds(2);
  world.faults().add(late);
  const auto resize = [&]() -> Task<> {
    co_await reactor.sleep(std::chrono::seconds(1));
    OpenFlags flags;
    flags.write = true;
    File file = co_await File::open(reactor, "/d/a", flags);
    co_await file.truncate(1 * MiB);
    co_await file.close();
  };
  Driver opened;
  const auto open = [&]() -> Task<> { opened = co_await open_file(reactor, named("/d/a")); };
  const auto both = [&](TaskGroup& group) -> Task<> {
    group.spawn(open());
    group.spawn(resize());
    co_await group.join();
  };
  const Instant before = world.now();
  run(with_group(reactor, both));
  EXPECT_GE(world.now() - before, std::chrono::seconds(2));
  EXPECT_EQ(opened->size(), 1 * MiB);
  run(opened->close());
}

TEST_F(FileTest, ReadersShare) {
  put("/d/a", 4096);
  const Driver first = run(open_file(reactor, named("/d/a", true)));
  const Driver second = run(open_file(reactor, named("/d/a", true)));
  EXPECT_EQ(error_of(open_file(reactor, named("/d/a"))).code(), Errc::busy);
  run(first->close());
  run(second->close());
}

TEST_F(FileTest, CreatesFiles) {
  create("/d/sparse", 1 * MiB);
  create("/d/falloc", 1 * MiB, FilePreallocation::falloc);
  create("/d/full", 3 * MiB / 2 + 5, FilePreallocation::full);
  EXPECT_EQ(world.disk().export_file("/d/sparse"), std::vector<std::byte>(1 * MiB));
  EXPECT_EQ(world.disk().export_file("/d/full"), std::vector<std::byte>(3 * MiB / 2 + 5));
  EXPECT_EQ(run(fs::stat(reactor, "/d/sparse")).allocated, 0u);
  EXPECT_GE(run(fs::stat(reactor, "/d/falloc")).allocated, 1 * MiB);
  world.crash();
  EXPECT_TRUE(world.disk().exists("/d/sparse") && world.disk().exists("/d/falloc"));
}

TEST_F(FileTest, CreatingReplacesContent) {
  put("/d/a", 100 * KiB);
  create("/d/a", 4096);
  EXPECT_EQ(world.disk().export_file("/d/a"), std::vector<std::byte>(4096));
}

TEST_F(FileTest, CreatingNeverTouchesAnImageInUse) {
  put("/d/a", 4096);
  const Driver user = run(open_file(reactor, named("/d/a", true)));
  const Error error = error_of(create_file(reactor, "/d/a", 512, FilePreallocation::off));
  EXPECT_EQ(error.code(), Errc::busy);
  EXPECT_EQ(world.disk().export_file("/d/a"), std::vector<std::byte>(4096, std::byte{1}));
  run(user->close());
}

TEST_F(FileTest, AFailedCreationLeavesNothing) {
  world.options().capacity = 1 * MiB;
  put("/d/old", 4096);
  for (const auto preallocation : {FilePreallocation::falloc, FilePreallocation::full}) {
    const auto attempt = [&](const char* path) {
      return error_of(create_file(reactor, path, 2 * MiB, preallocation));
    };
    EXPECT_EQ(attempt("/d/new").to_errno(), ENOSPC);
    EXPECT_FALSE(world.disk().exists("/d/new"));
    EXPECT_EQ(attempt("/d/old").to_errno(), ENOSPC);
    EXPECT_EQ(world.disk().export_file("/d/old").size(), 0u);
  }
  EXPECT_EQ(error_of(create_file(reactor, "/none/a", 1, FilePreallocation::off)).message(),
            "Could not create '/none/a': No such file or directory");
  EXPECT_EQ(error_of(create_file(reactor, "/d", 1, FilePreallocation::off)).message(),
            "Could not create '/d': Is a directory");
}

TEST_F(FileTest, WhatWasCreatedIsTakenBack) {
  auto created = run(create_file(reactor, "/d/new", 4096, FilePreallocation::off));
  EXPECT_EQ(created.replaced, Replaced::nothing);
  run(undo_create_file(reactor, created));
  EXPECT_FALSE(world.disk().exists("/d/new"));
  put("/d/empty", 0);
  created = run(create_file(reactor, "/d/empty", 4096, FilePreallocation::off));
  EXPECT_EQ(created.replaced, Replaced::empty_file);
  run(undo_create_file(reactor, created));
  EXPECT_EQ(world.disk().export_file("/d/empty").size(), 0u);
  put("/d/full", 512);
  created = run(create_file(reactor, "/d/full", 4096, FilePreallocation::off));
  EXPECT_EQ(created.replaced, Replaced::content);
  run(undo_create_file(reactor, created));
  EXPECT_EQ(world.disk().export_file("/d/full").size(), 4096u);
}

TEST_F(FileTest, WhatAnotherUsesIsNotTakenBack) {
  put("/d/empty", 0);
  for (const char* path : {"/d/new", "/d/empty"}) {
    const auto created = run(create_file(reactor, path, 4096, FilePreallocation::off));
    const Driver user = run(open_file(reactor, named(path)));
    EXPECT_EQ(error_of(undo_create_file(reactor, created)).code(), Errc::busy);
    EXPECT_EQ(world.disk().export_file(path).size(), 4096u);
    run(user->close());
  }
}

TEST_F(FileTest, WhatAnotherHasMadeOfTheNameStays) {
  const auto created = run(create_file(reactor, "/d/new", 4096, FilePreallocation::off));
  put("/d/other", 512);
  run(fs::rename(reactor, "/d/other", "/d/new", false));
  EXPECT_EQ(error_of(undo_create_file(reactor, created)).code(), Errc::busy);
  EXPECT_EQ(world.disk().export_file("/d/new").size(), 512u);
}

TEST_F(FileTest, WhatAnotherHasTakenStaysWhenHeHasLetGo) {
  for (const Errc why : {Errc::io, Errc::busy}) {
    auto created = run(create_file(reactor, "/d/new", 4096, FilePreallocation::off));
    leave_if_taken(created, Error(why, "why"));
    run(undo_create_file(reactor, created));
    EXPECT_EQ(world.disk().exists("/d/new"), why == Errc::busy);
  }
}

TEST_F(FileTest, AFileIsKnownByMoreThanItsName) {
  const auto created = run(create_file(reactor, "/d/new", 4096, FilePreallocation::off));
  run(check_named(reactor, created));
  put("/d/other", 512);
  run(fs::rename(reactor, "/d/other", "/d/new", false));
  EXPECT_EQ(error_of(check_named(reactor, created)).code(), Errc::busy);
  run(fs::unlink(reactor, "/d/new"));
  EXPECT_EQ(error_of(check_named(reactor, created)).code(), Errc::not_found);
}

TEST_F(FileTest, APartialFileIsNewWhateverWasLeft) {
  put("/d/a", 4096);
  const std::uint64_t left = run(fs::stat(reactor, "/d/a")).inode;
  File maker, another;
  EXPECT_NE(run(create_partial(reactor, "/d/a", maker)).inode, left);
  EXPECT_EQ(world.disk().export_file("/d/a").size(), 0u);
  EXPECT_EQ(error_of(create_partial(reactor, "/d/a", another)).code(), Errc::busy);      // it is being made
  run(maker.close());
  const Driver user = run(open_file(reactor, named("/d/a", true)));
  EXPECT_EQ(error_of(create_partial(reactor, "/d/a", another)).code(), Errc::busy);
  EXPECT_TRUE(world.disk().exists("/d/a"));
  run(user->close());
}

}  // namespace
}  // namespace tidemark
