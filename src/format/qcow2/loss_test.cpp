// Storage that drops, when a flush fails, what was written since the last good one, and goes on: the image keeps what was
// durable, and says so until it is opened anew.
#include <set>

#include "block/test_driver.hpp"
#include "format/qcow2/check/check.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark::qcow2 {
namespace {

using Content = std::vector<std::byte>;
constexpr Permissions all_rights{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};

class Volatile final : public test::TestDriver {
 public:
  using TestDriver::TestDriver;
  std::optional<std::size_t> flushes_left;      // before one fails
  Errc fails_with = Errc::io;
  std::size_t changes_after = 0;                // since it has failed
  bool failed = false;
  std::function<Task<>()> while_reading, while_writing;      // the next time

  void keep() { kept_ = content(); }
  bool lost_by(const Error& error) const noexcept override { return error.code() == Errc::io; }
  Task<> read(std::uint64_t offset, Buffers into) override {
    if (const auto meanwhile = std::exchange(while_reading, nullptr)) co_await meanwhile();
    co_await TestDriver::read(offset, into);
  }
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags) override {
    changes_after += failed;
    co_await TestDriver::write(offset, from, flags);
    if (const auto meanwhile = std::exchange(while_writing, nullptr)) co_await meanwhile();
  }
  Task<> write_zeroes(Range range, WriteFlags flags) override {
    changes_after += failed;
    return TestDriver::write_zeroes(range, flags);
  }
  Task<> flush() override {
    co_await TestDriver::flush();
    if (flushes_left && (*flushes_left)-- == 0) {
      flushes_left.reset();
      failed = true;
      if (fails_with == Errc::io) {
        kept_.resize(content().size());
        content() = kept_;
      }
      co_await Error(fails_with, "the cache is gone");
    }
    keep();
  }

 private:
  Content kept_;
};

class Loss : public test::BlockTest {
 protected:
  static constexpr std::uint64_t disk_size = 4 * MiB;
  static constexpr int below = 5;

  Volatile& add_file(Content content) {
    auto driver = std::make_unique<Volatile>(reactor, test::TestDriverOptions{});
    Volatile& file = *driver;
    name_ = "file" + std::to_string(files_++);
    add(name_, std::move(driver));
    file.content() = std::move(content);
    file.keep();
    return file;
  }
  std::unique_ptr<Edge> edge_to_last() { return *Edge::attach(node(name_), Role::file, all_rights, "an image"); }
  std::unique_ptr<Qcow2Driver> open(Qcow2OpenOptions options = {}) {
    auto image = run(Qcow2Driver::open(edge_to_last(), options));
    image->set_backing(*Edge::attach(node("back"), Role::backing, {Permissions::consistent_read, Permissions::all}, "an image"));
    return image;
  }
  Content make() {
    test::TestDriverOptions options;
    options.size = disk_size;
    add_disk("back", options).content() = Content(disk_size, static_cast<std::byte>(below));
    Volatile& file = add_file({});
    const auto edge = edge_to_last();
    Qcow2CreateOptions create;
    create.size = disk_size;
    create.backing_file = "back";
    create.backing_format = "raw";
    run(Qcow2Driver::create(*edge, create));
    return file.content();
  }
  Result<> write(Qcow2Driver& image, std::uint64_t at, std::uint64_t length, int value) {
    Content data(length, static_cast<std::byte>(value));
    return reactor.run(image.write(at, Buffers(MutableBytes(data)), WriteFlags::none));
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
  void expect_well(Content content) {
    add_file(std::move(content));
    const auto edge = edge_to_last();
    const CheckReport report = run(check_image(*edge, CheckOptions{}));
    EXPECT_EQ(report.corruptions, 0u) << (report.messages.empty() ? "" : report.messages.front());
  }

 private:
  std::string name_;
  int files_ = 0;
};

TEST_F(Loss, WhatWasCopiedOnWriteStaysInTheBackingFile) {
  Volatile& file = add_file(make());
  auto image = open();
  run(image->flush());
  EXPECT_TRUE(write(*image, 0, 4096, 7).ok());
  expect(*image, 0, 4096, 7);
  file.flushes_left = 0;
  const Result<> flushed = reactor.run(image->flush());
  ASSERT_FALSE(flushed.ok());
  EXPECT_EQ(flushed.error().message(), "qcow2: the storage 'file1' has lost what was written since its last flush (the cache "
                                       "is gone): nothing more is written to the image until it is opened anew (blockdev-reopen)");
  EXPECT_EQ(flushed.error().to_errno(), EIO);
  EXPECT_FALSE(write(*image, 0, 4096, 7).ok());
  EXPECT_FALSE(reactor.run(image->flush()).ok());
  expect(*image, 0, 64 * KiB, below);
  EXPECT_FALSE(reactor.run(image->close()).ok());
  EXPECT_EQ(file.changes_after, 0u);
  image = open();
  expect(*image, 0, disk_size, below);
  EXPECT_TRUE(write(*image, 0, 4096, 7).ok());
  run(image->close());
  expect_well(file.content());
}

// Their flush fails, ours would not.
TEST_F(Loss, WhatAnothersFlushHasLostIsLost) {
  Volatile& file = add_file(make());
  const auto other = edge_to_last();
  auto image = open();
  run(image->flush());
  EXPECT_TRUE(write(*image, 0, 4096, 7).ok());
  file.flushes_left = 0;
  EXPECT_FALSE(reactor.run(other->flush()).ok());
  run(other->flush());
  EXPECT_FALSE(write(*image, 64 * KiB, 4096, 7).ok());
  EXPECT_FALSE(reactor.run(image->flush()).ok());
  expect(*image, 0, disk_size, below);
  EXPECT_FALSE(reactor.run(image->close()).ok());
  EXPECT_EQ(file.changes_after, 0u);
  image = open();
  expect(*image, 0, disk_size, below);
  run(image->close());
}

// What it has lost is lost all the same, though the filter was never told.
TEST_F(Loss, AFilterThatComesInBetween) {
  Volatile& file = add_file(make());
  BlockNode& storage = node("file1");
  BlockNode& disk = add("disk", open());
  Edge& guest = attach(disk);
  Content data(4096, std::byte{7});
  run(guest.write(0, Buffers(MutableBytes(data))));
  file.flushes_left = 0;
  EXPECT_FALSE(reactor.run(storage.make_durable()).ok());
  auto driver = std::make_unique<test::TestParent>(reactor, test::TestDriverOptions{});
  driver->filter = true;
  driver->children.push_back(*Edge::attach(storage, Role::filtered, {Permissions::none, Permissions::all}, "filter"));
  BlockNode& filter = add("filter", std::move(driver));
  ASSERT_TRUE(graph.replace(storage, filter).ok());
  EXPECT_FALSE(reactor.run(guest.write(0, Buffers(MutableBytes(data)))).ok());
  EXPECT_FALSE(reactor.run(guest.flush()).ok());
  EXPECT_EQ(file.changes_after, 0u);
  ASSERT_TRUE(graph.replace(filter, storage).ok());
  run(static_cast<Qcow2Driver&>(disk.driver()).open_anew());
  run(guest.write(0, Buffers(MutableBytes(data))));
  run(guest.flush());
}

// It has not told any flush that follows of itself.
TEST_F(Loss, WhatIsUnderWayFails) {
  Volatile& file = add_file(make());
  auto image = open();
  BlockNode& storage = node("file1");
  EXPECT_TRUE(write(*image, 1 * MiB, 64 * KiB, 6).ok());
  run(image->flush());
  const auto lose = [&]() -> Task<> {
    file.flushes_left = 0;
    const Result<> flushed = co_await storage.make_durable().result();
    EXPECT_FALSE(flushed.ok());
  };
  const auto check = [&](const Result<>& done) {
    ASSERT_TRUE(file.failed);
    EXPECT_FALSE(done.ok());
    expect(*image, 0, 1 * MiB, below);
    file.failed = false;
    run(image->open_anew());
    expect(*image, 0, 1 * MiB, below);
    expect(*image, 1 * MiB, 64 * KiB, 6);
  };
  file.while_writing = lose;
  check(write(*image, 0, 64 * KiB, 7));
  file.while_writing = lose;
  check(write(*image, 4096, 4096, 7));
  file.while_writing = lose;
  Content even(64 * KiB, std::byte{7});
  check(reactor.run(image->write_compressed(0, Buffers(MutableBytes(even)))));
  run(image->close());
  image = open();                                // its tables are not in memory
  file.while_reading = lose;
  const Range whole{1 * MiB, 64 * KiB};
  check(reactor.run(image->write_zeroes(whole, WriteFlags::none)));
  run(image->close());
  expect_well(file.content());
}

// As if the storage had.
TEST_F(Loss, AnImageThatIsGivenUp) {
  Volatile& file = add_file(make());
  BlockNode& disk = add("disk", open());
  auto& image = static_cast<Qcow2Driver&>(disk.driver());
  Edge& guest = attach(disk);
  Content data(4096, std::byte{7});
  run(guest.write(0, Buffers(MutableBytes(data))));
  EXPECT_FALSE(image.lost());
  image.lose("just so");
  EXPECT_TRUE(image.lost());
  const std::string why = "qcow2: nothing more is written to the image 'file1' until it is opened anew (blockdev-reopen): just so";
  EXPECT_EQ(error_of(guest.write(0, Buffers(MutableBytes(data)))).message(), why);
  EXPECT_EQ(error_of(disk.make_durable()).message(), why);
  EXPECT_EQ(disk.losses(), 1u);
  run(image.open_anew());
  EXPECT_FALSE(image.lost());
  EXPECT_EQ(error_of(guest.flush()).message(), "what was written before may be lost: " + why);
  run(guest.write(0, Buffers(MutableBytes(data))));
  run(guest.flush());
  EXPECT_FALSE(file.failed);
}

TEST_F(Loss, IsOpenedAnewWhereItIs) {
  Volatile& file = add_file(make());
  auto image = open();
  EXPECT_TRUE(write(*image, 1 * MiB, 4096, 6).ok());
  run(image->flush());
  run(image->open_anew());                       // nothing was lost
  EXPECT_TRUE(write(*image, 0, 4096, 7).ok());
  file.flushes_left = 0;
  EXPECT_FALSE(reactor.run(image->flush()).ok());
  file.flushes_left = 0;                         // and once more
  EXPECT_EQ(error_of(image->open_anew()).message(), "the cache is gone");
  EXPECT_FALSE(write(*image, 0, 4096, 7).ok());
  EXPECT_EQ(file.changes_after, 0u);
  file.failed = false;
  run(image->open_anew());
  expect(*image, 0, 1 * MiB, below);
  expect(*image, 1 * MiB, 4096, 6);
  EXPECT_TRUE(write(*image, 0, 4096, 8).ok());
  run(image->flush());
  expect(*image, 0, 4096, 8);
  expect(*image, 4096, 1 * MiB - 4096, below);
  run(image->close());
  expect_well(file.content());
}

TEST_F(Loss, APeerThatIsAwayHasLostNothing) {
  const Content before = make();
  for (const Errc why : {Errc::disconnected, Errc::timed_out, Errc::cancelled}) {
    SCOPED_TRACE(to_string(why));
    Volatile& file = add_file(before);
    auto image = open();
    EXPECT_TRUE(write(*image, 0, 4096, 7).ok());
    file.flushes_left = 0;
    file.fails_with = why;
    EXPECT_EQ(error_of(image->flush()).code(), why);
    EXPECT_TRUE(write(*image, 128 * KiB, 4096, 7).ok());
    run(image->flush());
    run(image->close());
    image = open();
    expect(*image, 0, 4096, 7);
    expect(*image, 4096, 60 * KiB, below);
    expect(*image, 128 * KiB, 4096, 7);
    run(image->close());
    expect_well(file.content());
  }
}

// What a disk may read as, a piece: what was there at the last good flush, or was written since.
class Possible {
 public:
  explicit Possible(std::uint64_t size, int now) : pieces_(size / piece, {now}), now_(size / piece, now) {}
  static constexpr std::uint64_t piece = 4096;
  void written(Range range, int value) {
    for (std::uint64_t i = range.offset / piece; i < range.end() / piece; ++i) {
      pieces_[i].insert(value);
      now_[i] = value;
    }
  }
  void flushed() {
    for (std::size_t i = 0; i < pieces_.size(); ++i) pieces_[i] = {now_[i]};
  }
  void is(const Content& content) {
    for (std::size_t i = 0; i < pieces_.size(); ++i) now_[i] = std::to_integer<int>(content[i * piece]);
    flushed();
  }
  void check(const Content& content) const {
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
      const auto begin = content.begin() + static_cast<std::ptrdiff_t>(i * piece);
      const int value = std::to_integer<int>(*begin);
      ASSERT_TRUE(pieces_[i].contains(value)) << "piece " << i << " is " << value;
      ASSERT_TRUE(std::all_of(begin, begin + piece, [&](std::byte b) { return b == *begin; })) << "piece " << i;
    }
  }

 private:
  std::vector<std::set<int>> pieces_;
  std::vector<int> now_;
};

class LossAnywhere : public Loss {
 protected:
  void write_all(Qcow2Driver& image, Possible& disk, int value) {
    const Range ranges[] = {{0, 4096}, {1 * MiB + 60 * KiB, 8 * KiB}, {2 * MiB, 256 * KiB}, {disk_size - 4096, 4096}};
    for (const Range range : ranges) {
      disk.written(range, value);
      (void)write(image, range.offset, range.length, value);
    }
  }
  void zero(Qcow2Driver& image, Possible& disk, Range range, bool discard) {
    disk.written(range, 0);
    if (discard) (void)reactor.run(image.discard(range));
    else (void)reactor.run(image.write_zeroes(range, WriteFlags::may_unmap));
  }
  void flush(Qcow2Driver& image, Possible& disk) {
    if (reactor.run(image.flush()).ok()) disk.flushed();
  }
  void use(Qcow2Driver& image, Possible& disk) {
    write_all(image, disk, 1);
    flush(image, disk);
    write_all(image, disk, 2);
    zero(image, disk, {2 * MiB, 128 * KiB}, true);
    flush(image, disk);
    Qcow2Snapshot wanted;
    wanted.name = "s";
    (void)reactor.run(image.create_snapshot(wanted));
    write_all(image, disk, 3);
    std::vector<Qcow2Bitmap> bitmaps(1);
    bitmaps[0].entry.name = "b";
    bitmaps[0].bits.emplace(image.size(), 64 * KiB);
    const Range dirty{0, 1 * MiB};
    bitmaps[0].bits->set(dirty);
    (void)reactor.run(image.store_bitmaps(std::move(bitmaps)));
    zero(image, disk, {0, 64 * KiB}, false);
    (void)reactor.run(image.truncate(disk_size + 1 * MiB));
    write_all(image, disk, 4);
    (void)reactor.run(image.delete_snapshot("s"));
    (void)reactor.run(image.truncate(disk_size));
    Qcow2AmendOptions wider;
    wider.refcount_bits = 64;
    (void)reactor.run(image.amend(wider));
    write_all(image, disk, 6);
    (void)reactor.run(image.write_backing_name("back", "raw"));
    flush(image, disk);
    write_all(image, disk, 7);
  }
};

TEST_F(LossAnywhere, WhatIsOpenedAnewWhereItIsGoesOn) {
  const Content before = make();
  for (const bool lazy : {false, true}) {
    Qcow2OpenOptions options;
    options.lazy_refcounts = lazy;
    std::size_t again = 0, removed = 0;
    for (std::size_t n = 0;; ++n) {
      SCOPED_TRACE((lazy ? "lazily, flush " : "flush ") + std::to_string(n));
      Volatile& file = add_file(before);
      auto image = open(options);
      Possible disk(disk_size, below);
      file.flushes_left = n;
      use(*image, disk);
      file.flushes_left.reset();
      if (!file.failed) {
        run(image->close());
        break;
      }
      const Result<> opened = reactor.run(image->open_anew());
      if (!opened) {
        EXPECT_EQ(opened.error().code(), Errc::busy) << opened.error().message();
      }
      ++(opened ? again : removed);
      if (opened) {
        const Range all{0, disk_size};
        const Content now = read(*image, all);
        disk.check(now);
        disk.is(now);
        write_all(*image, disk, 8);
        run(image->flush());
        disk.flushed();
        disk.check(read(*image, all));
        EXPECT_TRUE(reactor.run(image->truncate(disk_size)).ok());
      }
      EXPECT_EQ(reactor.run(image->close()).ok(), opened.ok());
      image = open(options);
      const Range all{0, disk_size};
      disk.check(read(*image, all));
      run(image->close());
      expect_well(file.content());
      if (HasFailure()) return;
    }
    EXPECT_GT(again, 20u);
    EXPECT_LT(removed, again / 2);
  }
}

TEST_F(LossAnywhere, TheImageIsAsOfItsLastGoodFlush) {
  const Content before = make();
  for (const bool lazy : {false, true}) {
    Qcow2OpenOptions options;
    options.lazy_refcounts = lazy;
    std::size_t losses = 0;
    for (std::size_t n = 0; losses == n; ++n) {
      SCOPED_TRACE((lazy ? "lazily, flush " : "flush ") + std::to_string(n));
      Volatile& file = add_file(before);
      auto image = open(options);
      Possible disk(disk_size, below);
      file.flushes_left = n;
      use(*image, disk);
      const bool lost = file.failed;
      if (lost) {
        const Range all{0, disk_size};
        disk.check(read(*image, all));
      }
      const bool closed = reactor.run(image->close()).ok();
      losses += file.failed;
      EXPECT_EQ(closed, !file.failed);
      EXPECT_EQ(file.changes_after, 0u);
      if (closed) disk.flushed();
      file.flushes_left.reset();
      image = open(options);
      const Range all{0, disk_size};
      disk.check(read(*image, all));
      EXPECT_TRUE(write(*image, 3 * MiB, 4096, 9).ok());
      run(image->close());
      expect_well(file.content());
      if (HasFailure()) return;
    }
    EXPECT_GT(losses, 20u);
  }
}

}  // namespace
}  // namespace tidemark::qcow2
