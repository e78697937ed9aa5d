// Storage that fails at any moment: what the driver says has happened, has; what it says has failed has changed nothing;
// and what is done afterwards is right.
#include "base/bytes.hpp"
#include "block/test_driver.hpp"
#include "format/qcow2/check/check.hpp"
#include "format/qcow2/driver.hpp"
#include "task/group.hpp"

namespace tidemark::qcow2 {
namespace {

using Content = std::vector<std::byte>;

// A file in memory.  One of its calls fails, with `left` of that kind to go.
class FailingFile final : public test::TestDriver {
 public:
  FailingFile(Reactor& reactor, test::TestDriverOptions options) : TestDriver(reactor, options), reactor_(reactor) {}
  struct Failure {
    test::Call call;
    std::size_t left;
  };
  std::optional<Failure> failure;
  bool can_resize = true;

  Task<> read(std::uint64_t offset, Buffers into) override {
    co_await unwrap(may(test::Call::read));
    co_await TestDriver::read(offset, into);
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    co_await unwrap(may(test::Call::write));
    co_await TestDriver::write(offset, from, flags);
  }
  Task<> truncate(std::uint64_t size, Growth growth) override {
    if (!can_resize) co_await Error(Errc::unsupported, "it cannot be resized");
    co_await unwrap(may(test::Call::truncate));
    co_await TestDriver::truncate(size, growth);
  }
  Task<> discard(Range range) override {
    if (discard_takes != Duration{}) co_await reactor_.sleep(discard_takes);
    co_await TestDriver::discard(range);
  }
  Duration discard_takes{};

 private:
  Result<> may(test::Call call) {
    if (!failure || failure->call != call || failure->left-- != 0) return {};
    failure.reset();
    return Error(Errc::io, "the disk is out of order");
  }

  Reactor& reactor_;
};

class Failing : public test::BlockTest {
 protected:
  static constexpr Permissions all_rights{P::consistent_read | P::write | P::resize, P::all};
  static constexpr std::uint64_t disk_size = 4 * MiB;

  FailingFile& add_file(Content content = {}) {
    test::TestDriverOptions options;
    options.size = content.size();
    auto driver = std::make_unique<FailingFile>(reactor, options);
    FailingFile& file = *driver;
    name_ = "file" + std::to_string(files_++);
    add(name_, std::move(driver));
    file.content() = std::move(content);
    return file;
  }
  std::unique_ptr<Edge> edge_to_last() { return *Edge::attach(node(name_), Role::file, all_rights, "an image"); }
  // On the file added last.
  std::unique_ptr<Qcow2Driver> open(Qcow2OpenOptions options = {}) { return run(Qcow2Driver::open(edge_to_last(), options)); }
  void close(std::unique_ptr<Qcow2Driver> image) { run(image->close()); }

  Content make(Qcow2CreateOptions options) {
    if (options.size == 0) options.size = disk_size;
    FailingFile& file = add_file();
    const auto edge = edge_to_last();
    run(Qcow2Driver::create(*edge, options));
    return file.content();
  }
  CheckReport check(Content content) {
    add_file(std::move(content));
    const auto edge = edge_to_last();
    return run(check_image(*edge, CheckOptions{}));
  }
  void write(Qcow2Driver& image, std::uint64_t at, std::uint64_t length, int value) {
    Content data(length, static_cast<std::byte>(value));
    run(image.write(at, Buffers(MutableBytes(data)), WriteFlags::none));
  }
  Content read(Qcow2Driver& image, Range range) {
    Content data(range.length);
    run(image.read(range.offset, Buffers(MutableBytes(data))));
    return data;
  }
  void expect(Qcow2Driver& image, std::uint64_t at, std::uint64_t length, int value) {
    const Range range{at, length};
    EXPECT_EQ(read(image, range), Content(length, static_cast<std::byte>(value))) << length << " bytes at " << at;
  }

 private:
  std::string name_;
  int files_ = 0;
};

// What becomes of an image with a snapshot when its tables are replaced and a read fails meanwhile.
class Replacing : public Failing {
 protected:
  using Work = std::function<Task<>(Qcow2Driver&)>;

  Content with_snapshot() {
    FailingFile& file = add_file(make({}));
    auto image = open();
    write(*image, 0, 1 * MiB, 7);
    Qcow2Snapshot old;
    old.name = "old";
    run(image->create_snapshot(old));
    write(*image, 0, 256 * KiB, 8);
    close(std::move(image));
    return file.content();
  }

  void expect_all_or_nothing(Work work, std::vector<std::string> names_after, int start_after) {
    const Content before = with_snapshot();
    Qcow2OpenOptions careful;
    careful.overlap_checks = static_cast<OverlapChecks>(~0u);       // so that more is read
    std::size_t failures = 0;
    for (std::size_t n = 0; failures == n; ++n) {
      SCOPED_TRACE("read " + std::to_string(n));
      FailingFile& file = add_file(before);
      auto image = open(careful);
      file.failure = {test::Call::read, n};
      const bool done = reactor.run(work(*image)).ok();
      failures += !done;
      file.failure.reset();
      const std::vector<std::string> names = done ? names_after : std::vector<std::string>{"old"};
      EXPECT_EQ(names_of(*image), names);
      // Where old tables and new ones would collide.
      write(*image, 512 * KiB, 64 * KiB, 9);
      write(*image, 2 * MiB, 1 * MiB, 9);
      run(image->flush());
      write(*image, 3 * MiB, 512 * KiB, 9);
      close(std::move(image));
      const CheckReport report = check(file.content());
      EXPECT_EQ(report.corruptions, 0u);
      EXPECT_EQ(report.leaks, 0u);
      expect_content(file.content(), names, done ? start_after : 8);
      if (HasFailure()) return;
    }
    EXPECT_GT(failures, 3u);
  }

 private:
  static std::vector<std::string> names_of(const Qcow2Driver& image) {
    std::vector<std::string> names;
    for (const Qcow2Snapshot& snapshot : image.snapshots()) names.push_back(snapshot.name);
    return names;
  }
  void expect_content(const Content& content, const std::vector<std::string>& names, int start) {
    add_file(content);
    auto image = open();
    EXPECT_EQ(names_of(*image), names);
    expect(*image, 0, 256 * KiB, start);
    expect(*image, 256 * KiB, 256 * KiB, 7);
    expect(*image, 512 * KiB, 64 * KiB, 9);
    expect(*image, 576 * KiB, 448 * KiB, 7);
    expect(*image, 1 * MiB, 1 * MiB, 0);
    expect(*image, 2 * MiB, 1536 * KiB, 9);
    close(std::move(image));
    for (const std::string& name : names) {
      Qcow2OpenOptions options;
      options.read_only = true;
      options.snapshot = name;
      image = open(options);
      expect(*image, 0, 256 * KiB, name == "old" ? 7 : 8);
      expect(*image, 256 * KiB, 768 * KiB, 7);
      close(std::move(image));
    }
  }
};

TEST_F(Replacing, ASnapshotIsMadeOrNot) {
  Work work = [](Qcow2Driver& image) -> Task<> {
    Qcow2Snapshot wanted;
    wanted.name = "new";
    co_await image.create_snapshot(wanted);
  };
  expect_all_or_nothing(work, {"old", "new"}, 8);
}

TEST_F(Replacing, ASnapshotIsAppliedOrNot) {
  Work work = [](Qcow2Driver& image) -> Task<> { return image.apply_snapshot("old"); };
  expect_all_or_nothing(work, {"old"}, 7);
}

TEST_F(Replacing, ASnapshotIsDeletedOrNot) {
  Work work = [](Qcow2Driver& image) -> Task<> { return image.delete_snapshot("old"); };
  expect_all_or_nothing(work, {}, 8);
}

TEST_F(Replacing, RefcountsAreWidenedOrNot) {
  Work work = [](Qcow2Driver& image) -> Task<> {
    Qcow2AmendOptions options;
    options.refcount_bits = 64;
    co_await image.amend(options);
  };
  expect_all_or_nothing(work, {"old"}, 8);
}

// An L2 table that the image leaves for a copy is not believed when its place becomes another one.
TEST_F(Failing, AnL2TableThatWasLeftIsForgotten) {
  constexpr std::uint64_t cluster = 4096, span = 2 * MiB;              // of an L2 table
  Qcow2CreateOptions options;
  options.cluster_size = cluster;
  FailingFile& file = add_file(make(options));
  auto image = open();
  write(*image, 0, 64 * KiB, 7);
  close(std::move(image));
  std::byte* const l1 = file.content().data() + load_be<std::uint64_t>(file.content().data() + 40);
  store_be(l1, load_be<std::uint64_t>(l1) & ~L2Entry::copied_flag);    // as a snapshot that was not completed leaves it
  image = open();
  expect(*image, 0, 64 * KiB, 7);
  write(*image, 0, cluster, 8);
  run(image->flush());
  run(image->flush());
  write(*image, span, cluster, 9);
  expect(*image, span, cluster, 9);
  expect(*image, span + cluster, 60 * KiB, 0);
  expect(*image, 0, cluster, 8);
  expect(*image, cluster, 60 * KiB, 7);
  close(std::move(image));
  EXPECT_TRUE(check(file.content()).clean());
}

// What was written before is counted before the image's counts are left to be repaired.
TEST_F(Failing, CountsBecomeLazyOnlyWhenTheyAreWritten) {
  FailingFile& file = add_file(make({}));
  auto image = open();
  Qcow2OpenOptions lazily;
  lazily.lazy_refcounts = true;
  write(*image, 0, 1 * MiB, 7);
  file.failure = {test::Call::write, 0};
  EXPECT_FALSE(reactor.run(image->change_options(lazily)).ok());
  run(image->flush());
  EXPECT_EQ(check(file.content()).corruptions, 0u);
  write(*image, 1 * MiB, 1 * MiB, 7);
  run(image->change_options(lazily));
  run(image->flush());
  EXPECT_EQ(check(file.content()).corruptions, 0u);
  write(*image, 2 * MiB, 1 * MiB, 7);
  run(image->flush());
  const ImageInfo info = run(image->info());
  EXPECT_TRUE(info.dirty);
  close(std::move(image));
  EXPECT_TRUE(check(file.content()).clean());
}

TEST_F(Failing, WhatWasWrittenStaysInAnImageFoundToBeCorrupt) {
  for (const bool lazy : {false, true}) {
    FailingFile& file = add_file(make({}));
    auto image = open();
    write(*image, 3 * MiB, 64 * KiB, 7);
    close(std::move(image));
    std::byte* const all = file.content().data();
    const std::uint64_t l1 = load_be<std::uint64_t>(all + 40), l2 = load_be<std::uint64_t>(all + l1) & L2Entry::offset_mask;
    store_be(all + l2 + 48 * 8, L2Entry::copied_flag | std::uint64_t{1} << 40);      // the one at 3 MiB
    Qcow2OpenOptions options;
    options.lazy_refcounts = lazy;
    image = open(options);
    write(*image, 0, 1 * MiB, 8);
    Content data(512);
    EXPECT_FALSE(reactor.run(image->read(3 * MiB, Buffers(MutableBytes(data)))).ok());
    close(std::move(image));
    options.read_only = true;
    image = open(options);
    expect(*image, 0, 1 * MiB, 8);
    const ImageInfo info = run(image->info());
    EXPECT_TRUE(info.qcow2->corrupt);
    EXPECT_EQ(info.dirty, lazy);
    close(std::move(image));
  }
}

// The file is longer than what it holds, which the new refcounts need not count.
TEST_F(Failing, ASnapshotOfSmallClustersFindsRoomForItsTables) {
  for (const std::uint32_t bits : {16u, 32u, 64u})
    for (const bool can_resize : {true, false}) {
      SCOPED_TRACE(std::to_string(bits) + " bits" + (can_resize ? "" : ", of a device"));
      Qcow2CreateOptions options;
      options.size = 256 * MiB;
      options.cluster_size = 512;
      options.refcount_bits = bits;
      Content content = make(options);
      if (!can_resize) content.resize(8 * MiB);
      FailingFile& file = add_file(std::move(content));
      file.can_resize = can_resize;
      auto image = open();
      write(*image, 0, 64 * KiB, 7);
      Qcow2Snapshot wanted;
      wanted.name = "s";
      run(image->create_snapshot(wanted));
      write(*image, 32 * KiB, 64 * KiB, 8);
      run(image->apply_snapshot("s"));
      expect(*image, 0, 64 * KiB, 7);
      expect(*image, 64 * KiB, 64 * KiB, 0);
      run(image->delete_snapshot("s"));
      close(std::move(image));
      EXPECT_TRUE(check(file.content()).clean());
    }
}

// Space is given back to the file by who gave it up: nobody else waits until all of it is.
TEST_F(Failing, OthersDoNotWaitForSpaceThatIsGivenBack) {
  constexpr std::uint64_t cluster = 4096, clusters = 2000;
  Qcow2CreateOptions options;
  options.cluster_size = cluster;
  options.size = 4 * clusters * cluster;
  FailingFile& file = add_file(make(options));
  auto image = open();
  for (std::uint64_t first : {0, 1})                   // so that neighbours are none in the file
    for (std::uint64_t i = first; i < clusters; i += 2) write(*image, i * cluster, cluster, 7);
  run(image->flush());
  file.discard_takes = std::chrono::microseconds(200);
  bool given_up = false;
  std::vector<std::size_t> seen;                       // of discards, after each request of the other one
  const auto give_up = [&]() -> Task<> {
    const Range written{0, clusters * cluster};
    co_await image->discard(written);
    given_up = true;
  };
  const auto both = [&](TaskGroup& group) -> Task<> {
    group.spawn(give_up());
    Content data(cluster, std::byte{8});
    const Buffers one{MutableBytes(data)};
    for (std::uint64_t at = clusters * cluster; !given_up && at < options.size; at += cluster) {
      co_await image->write(at, one, WriteFlags::none);
      co_await image->flush();
      seen.push_back(file.count(test::Call::discard));
      co_await reactor.yield();
    }
    co_await group.join();
  };
  run(with_group(reactor, both));
  const std::size_t all = file.count(test::Call::discard);
  EXPECT_GE(all, clusters);
  std::size_t longest = 0;
  for (std::size_t i = 1; i < seen.size(); ++i) longest = std::max(longest, seen[i] - seen[i - 1]);
  EXPECT_LT(longest, all / 4);
  expect(*image, 0, clusters * cluster, 0);
  close(std::move(image));
  EXPECT_TRUE(check(file.content()).clean());
}

// What is free lies in pieces, most of which are too short.
TEST_F(Failing, TablesThatAreReplacedLeaveNothingBehind) {
  for (const std::uint32_t bits : {1u, 16u, 64u}) {
    SCOPED_TRACE(bits);
    Qcow2CreateOptions options;
    options.cluster_size = 512;
    options.refcount_bits = bits;
    options.size = 64 * MiB;
    FailingFile& file = add_file(make(options));
    auto image = open();
    for (std::uint64_t at = 0; at < 2 * MiB; at += 4096) write(*image, at, 512, 7);
    for (std::uint64_t at = 0; at < 2 * MiB; at += 8192) {
      const Range every_other{at, 512};
      run(image->discard(every_other));
    }
    run(image->flush());
    Qcow2Snapshot wanted;
    wanted.name = "s";
    Qcow2AmendOptions other;
    other.refcount_bits = 8;
    if (bits == 1) {
      (void)error_of(image->create_snapshot(wanted));                  // a cluster cannot have two users
      run(image->amend(other));
    }
    run(image->create_snapshot(wanted));
    run(image->apply_snapshot("s"));
    run(image->delete_snapshot("s"));
    run(image->amend(other));
    close(std::move(image));
    const CheckReport report = check(file.content());
    EXPECT_EQ(report.leaks, 0u);
    EXPECT_EQ(report.corruptions, 0u);
  }
}

TEST_F(Failing, AnImageMayBeLongerThanItsDataFile) {
  FailingFile& data = add_file();
  const auto creating = edge_to_last();
  FailingFile& file = add_file();
  auto edge = edge_to_last();
  Qcow2CreateOptions create;
  create.size = disk_size;
  create.data_file = "data";
  run(Qcow2Driver::create(*edge, create, creating.get()));
  Qcow2OpenOptions options;
  options.data_file_follows = true;
  auto image = run(Qcow2Driver::open(std::move(edge), options));
  image->set_data_file(*Edge::attach(creating->node(), Role::data_file, all_rights, "an image"));
  for (std::uint64_t at = 0; at < disk_size; at += MiB) write(*image, at, MiB, 7);
  run(image->flush());
  data.content().resize(1 * MiB);
  expect(*image, 2 * MiB, 64 * KiB, 0);
  write(*image, 2 * MiB, 64 * KiB, 8);
  write(*image, 1 * MiB + 4096, 4096, 8);
  expect(*image, 0, MiB, 7);
  expect(*image, MiB, 4096, 0);
  expect(*image, MiB + 4096, 4096, 8);
  expect(*image, 2 * MiB, 64 * KiB, 8);
  expect(*image, 3 * MiB, MiB, 0);
  const ImageInfo info = run(image->info());
  EXPECT_FALSE(info.qcow2->corrupt);
  close(std::move(image));
  EXPECT_TRUE(check(file.content()).clean());
}

// What cannot be cleaned up behind the new end is no reason to say that it was not made the end.
TEST_F(Failing, ADiskIsShorterOrNot) {
  Content before;
  {
    FailingFile& file = add_file(make({}));
    auto image = open();
    write(*image, 0, disk_size, 7);
    Qcow2Snapshot wanted;
    wanted.name = "s";                                                 // the L2 table must be copied, or so it says
    run(image->create_snapshot(wanted));
    close(std::move(image));
    before = file.content();
    std::byte* const l1 = before.data() + load_be<std::uint64_t>(before.data() + 40);
    store_be(l1, load_be<std::uint64_t>(l1) & ~L2Entry::copied_flag);
  }
  std::size_t failed = 0, shorter = 0;
  for (std::size_t n = 0; n < 12; ++n) {
    SCOPED_TRACE(n);
    FailingFile& file = add_file(before);
    auto image = open();
    file.failure = {test::Call::write, n};
    const bool done = reactor.run(image->truncate(1 * MiB)).ok();
    failed += !done;
    shorter += done && !file.failure;
    file.failure.reset();
    EXPECT_EQ(image->size(), done ? 1 * MiB : disk_size);
    expect(*image, 0, 1 * MiB, 7);
    if (done) run(image->truncate(disk_size));
    expect(*image, 1 * MiB, 3 * MiB, done ? 0 : 7);
    close(std::move(image));
    EXPECT_EQ(check(file.content()).corruptions, done ? 0u : 1u);     // the mark that was taken away above
  }
  EXPECT_GT(failed, 0u);
  EXPECT_GT(shorter, 0u);
}

TEST_F(Failing, ASnapshotOfAnImpossibleSizeIsNotApplied) {
  FailingFile& made = add_file(make({}));
  auto image = open();
  write(*image, 0, 1 * MiB, 7);
  Qcow2Snapshot wanted;
  wanted.name = "s";
  run(image->create_snapshot(wanted));
  close(std::move(image));
  for (const std::uint64_t size : {std::uint64_t{1} << 62, std::uint64_t{1} << 56, std::uint64_t{1} << 52, std::uint64_t{64} << 30}) {
    SCOPED_TRACE(size);
    FailingFile& file = add_file(made.content());
    std::byte* const all = file.content().data();
    store_be(all + load_be<std::uint64_t>(all + 64) + 48, size);
    const Content before = file.content();
    image = open();
    const Result<> applied = reactor.run(image->apply_snapshot("s"));
    const bool possible = size == std::uint64_t{64} << 30;
    EXPECT_EQ(applied.ok(), possible);
    EXPECT_EQ(image->size(), possible ? size : disk_size);
    expect(*image, 0, 1 * MiB, 7);
    write(*image, 0, 1 * MiB, 8);
    close(std::move(image));
    image = open();
    expect(*image, 0, 1 * MiB, 8);
    close(std::move(image));
    EXPECT_TRUE(check(file.content()).clean());
  }
}

TEST_F(Failing, BitmapsThatCannotBeStoredTakeNothing) {
  const Content before = make({});
  std::size_t failures = 0;
  for (std::size_t n = 0; failures == n; ++n) {
    SCOPED_TRACE(n);
    FailingFile& file = add_file(before);
    auto image = open();
    std::vector<Qcow2Bitmap> bitmaps(2);
    for (Qcow2Bitmap& bitmap : bitmaps) {
      bitmap.entry.name = &bitmap == bitmaps.data() ? "one" : "two";
      bitmap.bits.emplace(disk_size, 64 * KiB);
      const Range dirty{128 * KiB, 1 * MiB};
      bitmap.bits->set(dirty);
    }
    file.failure = {test::Call::write, n};
    failures += !reactor.run(image->store_bitmaps(std::move(bitmaps))).ok();
    const bool there = image->has_dead_bitmaps();                      // and do not count
    file.failure.reset();
    close(std::move(image));
    const CheckReport report = check(file.content());
    EXPECT_EQ(report.corruptions, 0u);
    EXPECT_TRUE(there || report.leaks == 0) << report.leaks;
  }
  EXPECT_GT(failures, 5u);
}

}  // namespace
}  // namespace tidemark::qcow2
