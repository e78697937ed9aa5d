// Sealing and walking large disks: they tell how far they are, and end where they are told to.
#include "backup/walk.hpp"

#include <filesystem>

#include "backup/seal.hpp"
#include "block/test_driver.hpp"
#include "task/finally.hpp"

namespace tidemark::test {
namespace {

constexpr std::uint32_t granule = 64 * KiB;
constexpr std::uint64_t size = 32 * MiB;

// What is read from `unreadable` fails.
class BadDriver final : public TestDriver {
 public:
  using TestDriver::TestDriver;
  Task<> read(std::uint64_t offset, Buffers into) override {
    const Range range{offset, into.size()};
    if (unreadable.overlaps(range)) return fail();
    return TestDriver::read(offset, std::move(into));
  }
  Range unreadable;
  Errc why = Errc::corrupt;

 private:
  Task<> fail() { co_await Error(why, "it is a pity"); }
};

class LargeDisk : public BlockTest {
 protected:
  LargeDisk() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tidemark-walk-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path = pattern;
    TestDriverOptions options;
    options.size = size;
    auto made = std::make_unique<BadDriver>(reactor, options);
    driver = made.get();
    edge = &attach(add("disk", std::move(made)));
  }
  ~LargeDisk() override { std::filesystem::remove_all(path); }

  // A directory with a point whose disk must be zero throughout, or have the checksums of zeroes, walked.
  Task<WalkReport> walk(bool as_zero, WalkOptions options) {
    BackupDirectory directory = co_await BackupDirectory::open(reactor, path + "/backups", BackupDirectory::Open::create);
    auto close = [&directory]() -> Task<> { return directory.close(); };
    co_return co_await finally(walk_in(directory, as_zero, std::move(options)), close);
  }
  Task<WalkReport> walk_in(BackupDirectory& directory, bool as_zero, WalkOptions options) {
    PointManifest manifest;
    manifest.id = co_await directory.begin_point();
    DiskManifest disk;
    disk.name = disk.node = "vda";
    disk.size = size;
    disk.granularity = granule;
    disk.bitmap = "b";
    SumsWriter sums = co_await SumsWriter::create(reactor, directory.new_path(manifest.id) + "/vda.sums", size, granule);
    const std::vector<std::byte> zeroes(granule);
    if (as_zero) co_await sums.add_zero(0, size / granule);
    for (std::uint64_t n = 0; !as_zero && n < size / granule; ++n) co_await sums.add_data(n, Digest::of(zeroes));
    disk.sums_digest = co_await sums.finish();
    co_await sums.close();
    manifest.disks.push_back(disk);
    co_await directory.publish(manifest);
    const auto chain = co_await unwrap(directory.chain(directory.points().front(), "vda"));
    Expectations expected = co_await Expectations::open(reactor, directory, chain, "vda");
    auto close = [&expected]() -> Task<> { return expected.close(); };
    co_return co_await finally(walk_point(*edge, expected, nullptr, std::move(options)), close);
  }
  std::uint64_t bytes_read() const {
    std::uint64_t bytes = 0;
    for (const Logged& logged : driver->log)
      if (logged.call == Call::read) bytes += logged.range.length;
    return bytes;
  }

  std::string path;
  BadDriver* driver = nullptr;
  Edge* edge = nullptr;
};

TEST_F(LargeDisk, SealingTellsHowFarItIs) {
  std::vector<std::uint64_t> told;
  SealStep step = [&](std::uint64_t done) {
    told.push_back(done);
    return Result<>();
  };
  const Seal seal = run(seal_image(*edge, path + "/sums", size, granule, std::move(step)));
  EXPECT_EQ(seal.stored_bytes, size);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_GT(told.size(), 16u);
  EXPECT_EQ(told.back(), size);
}

TEST_F(LargeDisk, SealingEndsWhenItsStepSaysSo) {
  SealStep step = [](std::uint64_t done) {
    return done < 4 * MiB ? Result<>() : Result<>(Error(Errc::cancelled, "interrupted"));
  };
  auto sealed = reactor.run(seal_image(*edge, path + "/sums", size, granule, std::move(step)));
  ASSERT_FALSE(sealed);
  EXPECT_EQ(sealed.error().message(), "interrupted");
  EXPECT_LE(bytes_read(), 5 * MiB);
}

TEST_F(LargeDisk, AWalkTellsHowFarItIs) {
  for (const bool as_zero : {true, false}) {
    std::filesystem::remove_all(path + "/backups");
    std::uint64_t times = 0, last = 0;
    WalkOptions options;
    options.progress = [&](std::uint64_t done) {
      EXPECT_GT(done, last);
      last = done;
      ++times;
    };
    const WalkReport report = run(walk(as_zero, std::move(options)));
    EXPECT_EQ(as_zero ? report.zero_bytes : report.data_bytes, size);
    EXPECT_EQ(last, size);
    EXPECT_GE(times, 16u) << as_zero;
  }
}

TEST_F(LargeDisk, AWalkEndsWhenItIsInterrupted) {
  for (const bool as_zero : {true, false}) {
    std::filesystem::remove_all(path + "/backups");
    driver->log.clear();
    CancelSource interrupted;
    WalkOptions options;
    options.interrupted = interrupted.token();
    options.progress = [&](std::uint64_t done) {
      if (done >= 4 * MiB) interrupted.request();
    };
    auto walked = reactor.run(walk(as_zero, std::move(options)));
    ASSERT_FALSE(walked);
    EXPECT_EQ(walked.error().code(), Errc::cancelled);
    EXPECT_LE(bytes_read(), 16 * MiB) << as_zero;
  }
}

TEST_F(LargeDisk, WhatIsDamagedIsCountedByGranules) {
  for (const bool as_zero : {true, false}) {
    std::filesystem::remove_all(path + "/backups");
    driver->unreadable = {5 * MiB + 3 * granule, granule + 1};
    driver->content()[20 * MiB] = std::byte{1};
    WalkOptions options;
    options.stop_at_first_mismatch = false;
    const WalkReport report = run(walk(as_zero, std::move(options)));
    EXPECT_EQ(report.mismatches, 3u) << as_zero;
    EXPECT_EQ(as_zero ? report.zero_bytes : report.data_bytes, size - 3 * granule);
    EXPECT_EQ(report.read_error, "it is a pity");
    ASSERT_EQ(report.first_mismatches.size(), 3u);
    std::uint64_t bytes = 0;
    for (const Range& range : report.first_mismatches) bytes += range.length;
    EXPECT_EQ(bytes, 3 * granule);
    std::filesystem::remove_all(path + "/backups");
    const auto stopped = reactor.run(walk(as_zero, {}));
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code(), Errc::corrupt);
  }
}

TEST_F(LargeDisk, WhatCannotBeReadForReasonsOutsideIsNoDamage) {
  for (const bool as_zero : {true, false})
    for (const bool stops : {true, false}) {
      std::filesystem::remove_all(path + "/backups");
      driver->unreadable = {30 * MiB, granule};
      driver->why = Errc::io;
      WalkOptions options;
      options.stop_at_first_mismatch = stops;
      const auto walked = reactor.run(walk(as_zero, std::move(options)));
      ASSERT_FALSE(walked) << as_zero;
      EXPECT_EQ(walked.error().code(), Errc::io);
      EXPECT_EQ(walked.error().message(), "it is a pity");
    }
}

TEST_F(LargeDisk, DamageThatWasFoundIsToldThoughTheRestCannotBeRead) {
  driver->content()[0] = std::byte{1};
  driver->unreadable = {31 * MiB, granule};
  driver->why = Errc::io;
  WalkOptions options;
  options.stop_at_first_mismatch = false;
  const WalkReport report = run(walk(false, std::move(options)));
  EXPECT_EQ(report.mismatches, 1u);
  EXPECT_EQ(report.read_error, "it is a pity");
}

}  // namespace
}  // namespace tidemark::test
