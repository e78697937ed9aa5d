// Files that are made under another name first: what another program lays there meanwhile is not theirs, whoever it is.
#include <gtest/gtest.h>

#include "app/new_file.hpp"
#include "io/sim/process.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

class NewFilesTest : public testing::Test {
 protected:
  NewFilesTest() { world.disk().make_directory("/d"); }

  template <class T>
  T run(Task<T> task) {
    Result<T> outcome = process.run(std::move(task));
    if (!outcome) ADD_FAILURE() << outcome.error().message();
    if constexpr (!std::is_void_v<T>) return *std::move(outcome);
  }
  template <class T>
  Errc code_of(Task<T> task) {
    const Result<T> outcome = process.run(std::move(task));
    EXPECT_FALSE(outcome.ok());
    return outcome ? Errc::io : outcome.error().code();
  }
  // Another program's, in the place of whatever has the name.
  void lay(const std::string& path) {
    world.disk().import_file("/d/other", others);
    run(fs::rename(reactor, "/d/other", path, false));
  }
  bool is_other(const std::string& path) { return world.disk().exists(path) && world.disk().export_file(path) == others; }
  bool exists(const std::string& path) { return world.disk().exists(path); }

  const std::vector<std::byte> others = std::vector<std::byte>(512, std::byte{7});
  const std::string name = "/d/a", partial = "/d/a.tidemark-partial";
  SimWorld world{1};
  SimProcess process{world};
  Reactor& reactor = process.reactor();
};

TEST_F(NewFilesTest, AreMadeAndTakenBack) {
  NewFile file = run(NewFile::begin(reactor, name));
  run(file.make_partial());
  EXPECT_TRUE(exists(partial));
  run(file.discard());
  EXPECT_FALSE(exists(partial));
  run(file.make_partial());
  run(file.publish());
  EXPECT_TRUE(exists(name) && !exists(partial));
  run(file.discard());                                       // something later has failed
  EXPECT_FALSE(exists(name));
}

TEST_F(NewFilesTest, OfTwoAtOnceNeitherIsTheOthers) {
  NewFile first = NewFile::begin_new(reactor, name), second = NewFile::begin_new(reactor, name);
  run(first.make_partial());
  EXPECT_EQ(code_of(second.make_partial()), Errc::busy);
  run(second.discard());
  EXPECT_TRUE(exists(partial));
  run(first.publish());
  run(first.let_go());
  EXPECT_TRUE(exists(name));
}

// Whatever both do in turns: images' locks alone, which are placed before one looks for those of others, refuse it to both at times.
TEST_F(NewFilesTest, OfTwoAtOnceOneMakesIt) {
  for (int delay = 0; delay < 60; ++delay) {
    world.disk().import_file(partial, {});                   // a run that was killed has left it
    Result<> ends[2];
    const auto make = [&](int n) -> Task<> {
      for (int i = 0; n == 1 && i < delay; ++i) co_await reactor.yield();
      const auto fill = [&](std::string path) -> Task<> { co_await create_file(reactor, std::move(path), 512, FilePreallocation::off); };
      ends[n] = co_await make_file(NewFile::begin_new(reactor, name), fill).result();
    };
    auto both = [&](TaskGroup& group) -> Task<> {
      group.spawn(make(0));
      group.spawn(make(1));
      co_await group.join();
    };
    run(with_group(reactor, both));
    EXPECT_NE(ends[0].ok(), ends[1].ok()) << delay;
    EXPECT_FALSE(exists(partial)) << delay;
    if (exists(name)) run(fs::unlink(reactor, name));
  }
}

TEST_F(NewFilesTest, WhileOneGetsItsNameNobodyElseMakesIt) {
  NewFile first = NewFile::begin_new(reactor, name), second = NewFile::begin_new(reactor, name);
  run(first.make_partial());
  run(first.hold());
  EXPECT_EQ(code_of(second.make_partial()), Errc::busy);
  run(first.publish());
  run(first.let_go());
  run(second.make_partial());
  EXPECT_EQ(code_of(second.publish()), Errc::exists);
  run(second.discard());
  EXPECT_TRUE(exists(name) && !exists(partial));
}

// It is the same file, or none: whatever the other does meanwhile, at whichever moment.
TEST_F(NewFilesTest, WhatIsPublishedIsWhatWasMade) {
  for (int delay = 0; delay < 40; ++delay) {
    NewFile file = run(NewFile::begin(reactor, name));
    run(file.make_partial());
    const FileInfo mine = run(fs::stat(reactor, partial));
    NewFile other = NewFile::begin_new(reactor, name);
    Result<> published;
    auto both = [&](TaskGroup& group) -> Task<> {
      const auto publish = [&]() -> Task<> { published = co_await file.publish().result(); };
      const auto make = [&]() -> Task<> {
        for (int i = 0; i < delay; ++i) co_await reactor.yield();
        (void)co_await other.make_partial().result();
      };
      group.spawn(publish());
      group.spawn(make());
      co_await group.join();
    };
    run(with_group(reactor, both));
    EXPECT_EQ(published.ok(), exists(name)) << delay;
    if (published) {
      EXPECT_EQ(run(fs::stat(reactor, name)).inode, mine.inode) << delay;
    }
    run(file.let_go());
    if (exists(partial)) run(fs::unlink(reactor, partial));
    if (exists(name)) run(fs::unlink(reactor, name));
  }
}

TEST_F(NewFilesTest, OneThatIsRemovedBeforeItHasItsNameIsSaidToBe) {
  NewFile file = run(NewFile::begin(reactor, name));
  run(file.make_partial());
  run(fs::unlink(reactor, partial));
  const Result<> published = process.run(file.publish());
  ASSERT_FALSE(published.ok());
  EXPECT_EQ(published.error().message(), "'/d/a.tidemark-partial' is gone, which this was written to before it gets its name: another "
                                         "program has removed it; try again");
  run(file.let_go());
}

TEST_F(NewFilesTest, WhatAnotherProgramLaysThereIsNeitherPublishedNorRemoved) {
  NewFile file = run(NewFile::begin(reactor, name));
  run(file.make_partial());
  lay(partial);
  EXPECT_EQ(code_of(file.publish()), Errc::busy);
  EXPECT_EQ(code_of(file.discard()), Errc::busy);
  EXPECT_TRUE(is_other(partial) && !exists(name));
}

TEST_F(NewFilesTest, WhatHasTakenThePublishedNameIsNotRemoved) {
  NewFile file = run(NewFile::begin(reactor, name));
  run(file.make_partial());
  run(file.publish());
  lay(name);
  EXPECT_EQ(code_of(file.discard()), Errc::busy);
  EXPECT_TRUE(is_other(name));
}

TEST_F(NewFilesTest, AFileIsMadeByOneOfTwo) {
  const auto while_another_makes_it = [this](std::string path) -> Task<> {
    co_await fs::unlink(reactor, path);
    world.disk().import_file(path, others);
  };
  EXPECT_EQ(code_of(make_file(reactor, name, while_another_makes_it)), Errc::busy);
  EXPECT_TRUE(is_other(partial) && !exists(name));
}

TEST_F(NewFilesTest, ARestoreLeavesWhatAnotherProgramLaysThere) {
  for (const char* format : {"raw", "qcow2"}) {
    auto target = run(RestoreTarget::create(reactor, name, format, 1 * MiB, false));
    lay(partial);
    EXPECT_EQ(code_of(target->publish()), Errc::busy) << format;
    EXPECT_EQ(code_of(target->discard()), Errc::busy) << format;
    EXPECT_TRUE(is_other(partial) && !exists(name)) << format;
  }
}

TEST_F(NewFilesTest, ARestoreReplacesOnlyWhatWasThereAtTheBeginning) {
  auto target = run(RestoreTarget::create(reactor, name, "raw", 1 * MiB, true));
  lay(name);
  EXPECT_EQ(code_of(target->publish()), Errc::exists);
  run(target->discard());
  EXPECT_TRUE(is_other(name) && !exists(partial));
}

TEST_F(NewFilesTest, ARestoreLeavesNothingElse) {
  for (const char* format : {"raw", "qcow2"}) {
    auto target = run(RestoreTarget::create(reactor, name, format, 1 * MiB, false));
    run(target->discard());
    EXPECT_FALSE(exists(partial) || exists(name)) << format;
    target = run(RestoreTarget::create(reactor, name, format, 1 * MiB, false));
    run(target->publish());
    EXPECT_TRUE(exists(name) && !exists(partial)) << format;
    run(fs::unlink(reactor, name));
  }
}

}  // namespace
}  // namespace tidemark
