#include "backup/directory.hpp"

#include <gtest/gtest.h>

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "backup/expectation.hpp"
#include "backup/plan.hpp"
#include "io/sim/process.hpp"
#include "io/threads/threads_backend.hpp"
#include "task/finally.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

class DirectoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = make_threads_backend(4);
    ASSERT_TRUE(made);
    backend_ = *std::move(made);
    reactor_ = std::make_unique<Reactor>(*backend_);
    std::string pattern = (std::filesystem::temp_directory_path() / "tidemark-backup-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    top_ = pattern;
    path_ = top_ + "/backups";
  }
  void TearDown() override { std::filesystem::remove_all(top_); }

  template <class T>
  Result<T> run(Task<T> task) { return reactor_->run(std::move(task)); }

  BackupDirectory open(BackupDirectory::Open how) {
    auto opened = run(BackupDirectory::open(*reactor_, path_, how));
    EXPECT_TRUE(opened) << opened.error().message();
    return *std::move(opened);
  }
  void close(BackupDirectory& directory) { EXPECT_TRUE(run(directory.close())); }

  // A point whose disk "vda" of 10 granules has the given data granules (content: the number) and zero granules.
  std::string add_point(BackupDirectory& directory, std::optional<std::string> base, std::vector<unsigned> data,
                        std::vector<unsigned> zero) {
    auto add = [&]() -> Task<std::string> {
      PointManifest manifest;
      manifest.id = co_await directory.begin_point();
      manifest.time_ns = ++clock_;
      DiskManifest disk;
      disk.name = disk.node = "vda";
      disk.size = size;
      disk.base = base;
      disk.granularity = granule;
      disk.bitmap = bitmap_name(directory.id(), manifest.id, "vda");
      SumsWriter sums = co_await SumsWriter::create(*reactor_, directory.new_path(manifest.id) + "/vda.sums", size, granule);
      for (unsigned g = 0; g < 10; ++g) {
        if (std::find(data.begin(), data.end(), g) != data.end()) co_await sums.add_data(g, digest_of(g, manifest.time_ns));
        if (std::find(zero.begin(), zero.end(), g) != zero.end()) co_await sums.add_zero(g, 1);
      }
      disk.sums_digest = co_await sums.finish();
      co_await sums.close();
      manifest.disks.push_back(disk);
      co_await directory.publish(manifest);
      co_return manifest.id;
    };
    auto id = run(add());
    EXPECT_TRUE(id) << id.error().message();
    return *id;
  }
  static Digest digest_of(std::uint64_t granule_number, std::int64_t time) {
    return {granule_number, static_cast<std::uint64_t>(time)};
  }

  static constexpr std::uint32_t granule = 4096;
  static constexpr std::uint64_t size = 9 * granule + 512;
  std::int64_t clock_ = 0;
  std::unique_ptr<IoBackend> backend_;
  std::unique_ptr<Reactor> reactor_;
  std::string top_, path_;
};

TEST_F(DirectoryTest, IsMadeOnceAndKeepsItsId) {
  auto first = open(BackupDirectory::Open::create);
  const std::string id = first.id();
  EXPECT_EQ(id.size(), 16u);
  close(first);
  auto second = open(BackupDirectory::Open::create);
  EXPECT_EQ(second.id(), id);
  close(second);
}

TEST_F(DirectoryTest, ForeignDirectoriesAreRefused) {
  std::filesystem::create_directory(path_);
  std::ofstream(path_ + "/precious") << "data";
  auto opened = run(BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::create));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Errc::exists);
  auto missing = run(BackupDirectory::open(*reactor_, top_ + "/none", BackupDirectory::Open::read));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code(), Errc::not_found);
}

TEST_F(DirectoryTest, ASecondWriterIsRefusedAReaderIsNot) {
  auto writer = open(BackupDirectory::Open::create);
  auto second = run(BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::write));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), Errc::busy);
  auto reader = open(BackupDirectory::Open::read);
  close(reader);
  close(writer);
}

TEST_F(DirectoryTest, LitterOfADeadWriterIsRemoved) {
  auto writer = open(BackupDirectory::Open::create);
  auto id = run(writer.begin_point());
  ASSERT_TRUE(id);
  std::ofstream(writer.new_path(*id) + "/vda.qcow2") << "half";
  close(writer);
  auto reader = open(BackupDirectory::Open::read);
  EXPECT_TRUE(std::filesystem::exists(reader.new_path(*id)));
  EXPECT_TRUE(reader.points().empty());
  close(reader);
  auto next = open(BackupDirectory::Open::write);
  EXPECT_FALSE(std::filesystem::exists(next.new_path(*id)));
  close(next);
}

TEST_F(DirectoryTest, WhatAnInterruptedCreationLeftIsNoObstacle) {
  std::filesystem::create_directories(path_ + "/points");
  for (const char* name : {"/lock", "/tidemark-backup.json.tmp-0123456789abcdef"}) std::ofstream(path_ + name) << "";
  auto directory = open(BackupDirectory::Open::create);
  EXPECT_EQ(directory.id().size(), 16u);
  EXPECT_FALSE(std::filesystem::exists(path_ + "/tidemark-backup.json.tmp-0123456789abcdef"));
  close(directory);
}

TEST_F(DirectoryTest, PointsWithoutAMarkerAreForeign) {
  std::filesystem::create_directories(path_ + "/points/something");
  auto opened = run(BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::create));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), Errc::exists);
  EXPECT_FALSE(std::filesystem::exists(path_ + "/lock"));
}

TEST_F(DirectoryTest, ANewDirectoryWithoutPointsIsRetracted) {
  auto made = open(BackupDirectory::Open::create);
  EXPECT_TRUE(run(made.retract()));
  close(made);
  EXPECT_FALSE(std::filesystem::exists(path_));

  std::filesystem::create_directory(path_);        // not ours to remove, only what we put there
  auto filled = open(BackupDirectory::Open::create);
  EXPECT_TRUE(run(filled.retract()));
  close(filled);
  EXPECT_TRUE(std::filesystem::is_empty(path_));

  auto used = open(BackupDirectory::Open::create);
  add_point(used, {}, {0}, {});
  EXPECT_TRUE(run(used.retract()));
  close(used);
  auto again = open(BackupDirectory::Open::create);
  EXPECT_EQ(again.points().size(), 1u);
  EXPECT_TRUE(run(again.retract()));
  close(again);
  EXPECT_TRUE(std::filesystem::exists(path_ + "/tidemark-backup.json"));
}

TEST_F(DirectoryTest, OneOfTwoThatBeginAtOnceMakesIt) {
  for (int round = 0; round < 20; ++round) {
    std::filesystem::remove_all(path_);
    std::optional<Result<BackupDirectory>> opened[2];
    auto begin = [&](int which) -> Task<> {
      auto outcome = co_await BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::create).result();
      opened[which].emplace(std::move(outcome));
    };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(begin(0));
      group.spawn(begin(1));
      co_await group.join();
    };
    ASSERT_TRUE(run(with_group(*reactor_, both)));
    ASSERT_NE(opened[0]->ok(), opened[1]->ok());
    auto& winner = opened[0]->ok() ? *opened[0] : *opened[1];
    const Error loser = (opened[0]->ok() ? *opened[1] : *opened[0]).error();
    EXPECT_EQ(loser.code(), Errc::busy) << loser.message();
    close(*winner);
    auto again = open(BackupDirectory::Open::write);
    EXPECT_EQ(again.id(), winner->id());
    close(again);
  }
}

TEST_F(DirectoryTest, FindsPointsAndTheirChains) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string full = add_point(directory, {}, {0, 1, 2}, {3});
  const std::string next = add_point(directory, full, {1}, {});
  EXPECT_EQ((*directory.find("latest"))->id, next);
  EXPECT_EQ((*directory.find(full))->id, full);
  EXPECT_FALSE(directory.find("nothing"));
  auto chain = directory.chain(**directory.find("latest"), "vda");
  ASSERT_TRUE(chain);
  ASSERT_EQ(chain->size(), 2u);
  EXPECT_EQ((*chain)[1]->id, full);
  const auto none = directory.chain(**directory.find("latest"), "vdb");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Errc::corrupt) << "of a point that another one builds on";
  close(directory);
}

TEST_F(DirectoryTest, ADamagedPointIsToldAndNotBuiltOn) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string full = add_point(directory, {}, {0}, {});
  const std::string next = add_point(directory, full, {1}, {});
  close(directory);
  std::ofstream(path_ + "/points/" + full + "/manifest.json") << "{}";
  auto again = open(BackupDirectory::Open::read);
  ASSERT_EQ(again.damaged().size(), 1u);
  EXPECT_EQ(again.damaged()[0].id, full);
  ASSERT_EQ(again.points().size(), 1u);
  EXPECT_FALSE(again.chain(again.points()[0], "vda"));
  const auto plan = plan_disk(again, "vda", size, {{again.points()[0].disks[0].bitmap, true, false, false}}, BackupLevel::automatic);
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->base);
  close(again);
}

TEST_F(DirectoryTest, ExpectationsTakeTheNewestWord) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string full = add_point(directory, {}, {0, 1, 2, 9}, {3});          // time 1
  const std::string next = add_point(directory, full, {1, 5}, {2});              // time 2
  auto walk = [&]() -> Task<std::string> {
    const auto chain = *directory.chain(**directory.find("latest"), "vda");
    Expectations expected = co_await Expectations::open(*reactor_, directory, chain, "vda");
    std::string seen;
    for (;;) {
      const Expectation piece = co_await expected.next(1 * MiB);
      if (piece.range.empty()) break;
      const std::uint64_t first = piece.range.offset / granule;
      for (std::uint64_t i = 0; i < div_up(piece.range.length, granule); ++i) {
        if (piece.zero) {
          seen += 'z';
          continue;
        }
        EXPECT_EQ(piece.digests[i].high, first + i);
        seen += static_cast<char>('0' + piece.digests[i].low);
      }
    }
    co_await expected.close();
    co_return seen;
  };
  EXPECT_EQ(*run(walk()), "12zzz2zzz1");
  close(directory);
}

TEST_F(DirectoryTest, ADamagedSumsFileIsFound) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string full = add_point(directory, {}, {0, 1, 2}, {3});
  const std::string file = directory.point_path(full) + "/vda.sums";
  const auto length = std::filesystem::file_size(file);
  for (std::uint64_t at = 0; at < length; at += 5) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(stream.get());
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(static_cast<char>(byte ^ 4));
    stream.flush();
    const auto chain = *directory.chain(**directory.find("latest"), "vda");
    auto opened = run(Expectations::open(*reactor_, directory, chain, "vda"));
    EXPECT_FALSE(opened) << at;
    stream.seekp(static_cast<std::streamoff>(at));
    stream.put(byte);
  }
  close(directory);
}

TEST_F(DirectoryTest, PlansByPointsAndBitmaps) {
  auto directory = open(BackupDirectory::Open::create);
  auto none = plan_disk(directory, "vda", size, {}, BackupLevel::automatic);
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->base);
  const std::string full = add_point(directory, {}, {0}, {});
  const std::string bitmap = bitmap_name(directory.id(), full, "vda");
  const NodeBitmapState good{bitmap, true, false, false};

  auto incremental = plan_disk(directory, "vda", size, {good}, BackupLevel::automatic);
  ASSERT_TRUE(incremental);
  EXPECT_EQ(incremental->base, full);
  EXPECT_EQ(incremental->base_bitmap, bitmap);

  EXPECT_FALSE(plan_disk(directory, "vda", size, {good}, BackupLevel::full)->base);
  for (const auto& bitmaps : {std::vector{good}, std::vector<NodeBitmapState>{}}) {
    const auto resized = plan_disk(directory, "vda", size + 512, bitmaps, BackupLevel::automatic);
    EXPECT_FALSE(resized->base);
    EXPECT_EQ(resized->full_reason, "the disk has 37888 bytes, it had 37376 at point " + full);
  }
  EXPECT_FALSE(plan_disk(directory, "vda", size, {{bitmap, false, false, false}}, BackupLevel::automatic)->base);
  EXPECT_FALSE(plan_disk(directory, "vda", size, {{bitmap, true, false, true}}, BackupLevel::automatic)->base);
  EXPECT_FALSE(plan_disk(directory, "vda", size, {}, BackupLevel::incremental));
  EXPECT_TRUE(plan_disk(directory, "vda", size, {good}, BackupLevel::incremental));
  close(directory);
}

class SeveralDisksTest : public DirectoryTest {
 protected:
  // A point of disks that were taken with a checkpoint; of an early program, or with a name for each disk's bitmap.
  std::string add_disks(BackupDirectory& directory, const std::vector<std::string>& names, bool early, std::string checkpoint,
                        std::string identity = {}) {
    auto add = [&]() -> Task<std::string> {
      PointManifest manifest;
      manifest.id = co_await directory.begin_point();
      manifest.time_ns = directory.point_time();
      for (const std::string& name : names) {
        DiskManifest disk;
        disk.name = disk.node = name;
        disk.size = size;
        disk.granularity = granule;
        disk.bitmap = early ? "tidemark:" + directory.id() + ":" + manifest.id : bitmap_name(directory.id(), manifest.id, name);
        disk.identity = identity;
        disk.checkpoint = checkpoint;
        manifest.disks.push_back(disk);
      }
      co_await directory.publish(manifest);
      co_return manifest.id;
    };
    auto id = run(add());
    EXPECT_TRUE(id) << id.error().message();
    return *id;
  }
  static std::vector<NodeBitmapState> recording(std::vector<std::string> names) {
    std::vector<NodeBitmapState> states;
    for (std::string& name : names) states.push_back({std::move(name), true, false, false});
    return states;
  }
};

// The node "a" shows the image that was "b" when the point was taken, and has its bitmaps.
TEST_F(SeveralDisksTest, ADiskThatWasExchangedIsNotBuiltOnTheOther) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string point = add_disks(directory, {"a", "b"}, false, "checkpoint:1:monday");
  const auto of_a = recording({bitmap_name(directory.id(), point, "a"), "checkpoint:1:monday"});
  const auto of_b = recording({bitmap_name(directory.id(), point, "b"), "checkpoint:1:monday"});
  EXPECT_EQ(plan_disk(directory, "a", size, of_a, BackupLevel::automatic)->base, point);
  EXPECT_EQ(plan_disk(directory, "a", size, of_a, BackupLevel::automatic)->identity, point);
  EXPECT_FALSE(plan_disk(directory, "a", size, of_b, BackupLevel::automatic)->base);
  EXPECT_EQ(plan_disk(directory, "a", size, of_b, BackupLevel::automatic)->identity, "");
  EXPECT_EQ(plan_since(directory, "a", size, of_a, "monday")->base, point);
  EXPECT_FALSE(plan_since(directory, "a", size, of_b, "monday"));
  close(directory);
}

TEST_F(SeveralDisksTest, SinceACheckpointNeedsAnUnbrokenProof) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string first = add_disks(directory, {"a", "b"}, false, "checkpoint:1:monday");
  const std::string full = add_disks(directory, {"a", "b"}, false, "", first);                 // asked for, of the same disks
  auto bitmaps = recording({bitmap_name(directory.id(), full, "a"), "checkpoint:1:monday"});
  EXPECT_EQ(plan_since(directory, "a", size, bitmaps, "monday")->base, first);
  const std::string exchanged = add_disks(directory, {"a", "b"}, false, "");                   // nothing was known of them
  bitmaps = recording({bitmap_name(directory.id(), exchanged, "a"), "checkpoint:1:monday"});
  EXPECT_FALSE(plan_since(directory, "a", size, bitmaps, "monday"));
  EXPECT_EQ(plan_disk(directory, "a", size, bitmaps, BackupLevel::automatic)->identity, exchanged);
  close(directory);
}

TEST_F(SeveralDisksTest, BitmapsOfEarlyProgramsSayNothingWhereTheyAreSeveral) {
  auto directory = open(BackupDirectory::Open::create);
  std::string point = add_disks(directory, {"a", "b"}, true, "");
  std::string bitmap = "tidemark:" + directory.id() + ":" + point;
  EXPECT_FALSE(plan_disk(directory, "a", size, recording({bitmap}), BackupLevel::automatic)->base);
  point = add_disks(directory, {"a"}, true, "");
  bitmap = "tidemark:" + directory.id() + ":" + point;
  EXPECT_EQ(plan_disk(directory, "a", size, recording({bitmap}), BackupLevel::automatic)->base, point);
  close(directory);
}

TEST(DirectoryOnASimulationTest, BesideOneThatIsUndoneItIsInUseOrMadeAnew) {
  for (int delay = 0; delay < 100; ++delay) {
    SimWorld world{1};
    SimProcess process{world};
    Reactor& reactor = process.reactor();
    world.disk().make_directory("/d");
    auto first = process.run(BackupDirectory::open(reactor, "/d/b", BackupDirectory::Open::create));
    ASSERT_TRUE(first) << first.error().message();
    Result<> second;
    const auto undo = [&]() -> Task<> {
      (void)co_await first->retract().result();              // the directory stays where the other is in it by then
      co_await first->close();
    };
    const auto begin = [&]() -> Task<> {
      for (int i = 0; i < delay; ++i) co_await reactor.yield();
      auto opened = co_await BackupDirectory::open(reactor, "/d/b", BackupDirectory::Open::create).result();
      if (opened) co_await opened->close();
      else second = opened.error();
    };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(undo());
      group.spawn(begin());
      co_await group.join();
    };
    ASSERT_TRUE(process.run(with_group(reactor, both)));
    EXPECT_TRUE(second || second.error().code() == Errc::busy) << delay << ": " << second.error().message();
  }
}

// Who is told that a point failed does not look for it: it is not there, nor after the next start.
TEST(DirectoryOnASimulationTest, APointWhoseNameIsNotDurableIsNotPublished) {
  SimWorld world{1};
  SimProcess process{world};
  Reactor& reactor = process.reactor();
  world.disk().make_directory("/d");
  auto opened = process.run(BackupDirectory::open(reactor, "/d/b", BackupDirectory::Open::create));
  ASSERT_TRUE(opened) << opened.error().message();
  BackupDirectory directory = *std::move(opened);
  const auto publish = [&](bool fails) -> Task<> {
    PointManifest manifest;
    manifest.id = co_await directory.begin_point();
    manifest.time_ns = directory.point_time();
    DiskManifest disk;
    disk.name = "vda";
    disk.granularity = 4096;
    manifest.disks.push_back(disk);
    SimFault fault;
    fault.kind = IoOp::Kind::sync_dir;
    fault.path = "/d/b/points";
    fault.skip = 1;                                          // that of the manifest's own directory
    if (fails) world.faults().add(fault);
    co_await directory.publish(manifest);
  };
  EXPECT_TRUE(process.run(publish(false)));
  const auto failed = process.run(publish(true));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().to_errno(), EIO);
  EXPECT_EQ(directory.points().size(), 1u);
  EXPECT_TRUE(process.run(directory.close()));
  auto again = process.run(BackupDirectory::open(reactor, "/d/b", BackupDirectory::Open::read));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(again->points().size(), 1u);
  EXPECT_TRUE(process.run(again->close()));
}

TEST_F(DirectoryTest, ANewPointIsTheLatestWhateverTheClockSays) {
  auto directory = open(BackupDirectory::Open::create);
  const std::int64_t tomorrow = backend_->wall_clock_ns() + 86400 * std::int64_t{1000000000};
  auto publish = [&](std::int64_t at_least) -> Task<std::string> {
    PointManifest manifest;
    manifest.id = co_await directory.begin_point();
    if (at_least) manifest.id = utc_time_compact(at_least) + "-00000000";
    if (at_least) std::filesystem::create_directory(directory.new_path(manifest.id));
    manifest.time_ns = std::max(at_least, directory.point_time());
    DiskManifest disk;
    disk.name = "vda";
    disk.granularity = granule;
    manifest.disks.push_back(disk);
    co_await directory.publish(manifest);
    co_return manifest.id;
  };
  const std::string ahead = *run(publish(tomorrow));
  const std::string right = *run(publish(0));
  EXPECT_LT(ahead, right);
  close(directory);
  auto again = open(BackupDirectory::Open::read);
  EXPECT_EQ((*again.find("latest"))->id, right);
  close(again);
}

TEST_F(DirectoryTest, LatestIsNotAnOlderOneWhereTheNewestIsDamaged) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string older = add_point(directory, {}, {0}, {});
  const std::string newest = add_point(directory, {}, {0}, {});
  close(directory);
  const std::string last = std::max(older, newest), first = std::min(older, newest);           // made in one millisecond
  const auto text_of = [&](const std::string& id) { return path_ + "/points/" + id + "/manifest.json"; };
  std::ofstream(text_of(last)) << "{}";
  auto again = open(BackupDirectory::Open::read);
  const auto found = again.find("latest");
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code(), Errc::corrupt);
  EXPECT_NE(found.error().message().find(last), std::string::npos) << found.error().message();
  EXPECT_TRUE(again.find(first));
  close(again);
}

TEST_F(DirectoryTest, LitterOfAnyKindGoesAndNothingBehindALink) {
  auto writer = open(BackupDirectory::Open::create);
  close(writer);
  std::filesystem::create_directories(path_ + "/points/.new-tree/deep/er");
  std::ofstream(path_ + "/points/.new-tree/deep/er/file") << "x";
  std::ofstream(path_ + "/points/.new-file") << "x";
  std::filesystem::create_directory(top_ + "/precious");
  std::ofstream(top_ + "/precious/file") << "x";
  std::filesystem::create_directory_symlink(top_ + "/precious", path_ + "/points/.new-link");
  std::filesystem::create_directory_symlink(top_ + "/precious", path_ + "/points/.new-tree/link");
  auto next = open(BackupDirectory::Open::write);
  EXPECT_TRUE(std::filesystem::is_empty(path_ + "/points"));
  EXPECT_TRUE(std::filesystem::exists(top_ + "/precious/file"));
  close(next);
}

TEST_F(DirectoryTest, ALockThatIsALinkMakesNoFileElsewhere) {
  auto writer = open(BackupDirectory::Open::create);
  close(writer);
  std::filesystem::remove(path_ + "/lock");
  std::filesystem::create_symlink(top_ + "/elsewhere", path_ + "/lock");
  EXPECT_FALSE(run(BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::write)));
  EXPECT_FALSE(std::filesystem::exists(top_ + "/elsewhere"));
}

TEST_F(DirectoryTest, WhatIsNoFileIsNotWaitedFor) {
  auto writer = open(BackupDirectory::Open::create);
  const std::string point = add_point(writer, {}, {0}, {});
  close(writer);
  const std::string manifest = path_ + "/points/" + point + "/manifest.json";
  std::filesystem::remove(manifest);
  ASSERT_EQ(::mkfifo(manifest.c_str(), 0600), 0);
  std::ofstream(path_ + "/points/note") << "a file is no point";
  auto reader = open(BackupDirectory::Open::read);
  ASSERT_EQ(reader.damaged().size(), 1u);
  EXPECT_EQ(reader.damaged()[0].id, point);
  close(reader);
}

TEST_F(DirectoryTest, ABeginningOfDamagedPointsIds) {
  auto directory = open(BackupDirectory::Open::create);
  const std::string older = add_point(directory, {}, {0}, {});
  close(directory);
  for (const char* id : {"damaged", "damaged-too", "2"}) {
    std::filesystem::create_directory(path_ + "/points/" + id);
    std::ofstream(path_ + "/points/" + id + "/manifest.json") << "{}";
  }
  auto again = open(BackupDirectory::Open::read);
  const auto code = [&](std::string_view name) {
    const auto found = again.find(name);
    return found ? std::string((*found)->id) : std::string(to_string(found.error().code()));
  };
  EXPECT_EQ(code(older.substr(0, 8)), older);
  EXPECT_EQ(code("2"), "corrupt") << "it is a whole id";
  EXPECT_EQ(code("damaged"), "corrupt");
  EXPECT_EQ(code("damaged-"), "corrupt");
  EXPECT_EQ(code("dam"), "invalid argument");
  EXPECT_EQ(code(""), "not found");
  std::filesystem::create_directory(path_ + "/points/" + older.substr(0, 8) + "-later");
  close(again);
  auto last = open(BackupDirectory::Open::read);
  EXPECT_FALSE(last.find(older.substr(0, 8))) << "that of one whose manifest is gone";
  close(last);
}

TEST_F(DirectoryTest, WhatCouldNotBeReadAgainIsNotPublished) {
  auto directory = open(BackupDirectory::Open::create);
  auto publish = [&]() -> Task<> {
    PointManifest manifest;
    manifest.id = co_await directory.begin_point();
    manifest.disks.push_back({"vda", "vda", size, {}, granule, 0, {}, "b"});
    manifest.machine = Json(Json::Array(2 * 1024 * 1024));
    const auto published = co_await directory.publish(std::move(manifest)).result();
    EXPECT_FALSE(published);
    EXPECT_TRUE(directory.points().empty());
  };
  EXPECT_TRUE(reactor_->run(publish()));
  close(directory);
  auto again = open(BackupDirectory::Open::write);
  EXPECT_TRUE(again.damaged().empty());
  close(again);
}

TEST_F(DirectoryTest, AMarkerThatIsNoneIsDamage) {
  auto writer = open(BackupDirectory::Open::create);
  close(writer);
  for (const char* content : {"", "{\"format\"", "{}", "[]"}) {
    std::ofstream(path_ + "/tidemark-backup.json") << content;
    const auto opened = run(BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::read));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code(), Errc::corrupt) << content;
  }
}

// They are made before the marker is.  Who writes makes no others, which would hide it.
TEST_F(DirectoryTest, WithoutItsPointsItIsDamaged) {
  auto writer = open(BackupDirectory::Open::create);
  close(writer);
  std::filesystem::remove(path_ + "/points");
  const auto reader = run(BackupDirectory::open(*reactor_, path_, BackupDirectory::Open::read));
  ASSERT_FALSE(reader);
  EXPECT_EQ(reader.error().code(), Errc::corrupt);
  EXPECT_NE(reader.error().message().find(path_), std::string::npos) << reader.error().message();
  for (const auto how : {BackupDirectory::Open::write, BackupDirectory::Open::create}) {
    const auto next = run(BackupDirectory::open(*reactor_, path_, how));
    ASSERT_FALSE(next);
    EXPECT_EQ(next.error().code(), Errc::corrupt);
    EXPECT_FALSE(std::filesystem::exists(path_ + "/points"));
  }
}

}  // namespace
}  // namespace tidemark
