// Names: opening, renaming, linking, listing, replacing.
#include "tests/contract/io/contract.hpp"

namespace tidemark::contract {
namespace {

class NamesContract : public IoContract {
 protected:
  Task<> make(std::string name, std::string content) {
    auto write = [&](File& file) { return file.write(0, out(content)); };
    co_await with_file(path(name), writing(), write);
  }
  Task<std::string> content(std::string name) { return fs::read_all(reactor, path(name), MiB); }
  Task<std::string> names(std::string name = ".") {   // "a b c"
    const std::vector<std::string> all = co_await fs::list(reactor, path(name));
    std::string joined;
    for (const std::string& one : all) joined += (joined.empty() ? "" : " ") + one;
    co_return joined;
  }
};
TM_ON_EVERY_WORLD(NamesContract);

TEST_P(NamesContract, OpenSaysWhatIsWrong) {
  check([&]() -> Task<> {
    const Result<File> missing = co_await File::open(reactor, path("none"), reading()).result();
    expect_error(missing, Errc::not_found);
    EXPECT_EQ(missing.error().message(), "open '" + path("none") + "': No such file or directory");
    OpenFlags flags = writing();
    flags.exclusive = true;
    co_await make("here", "");
    expect_error(co_await File::open(reactor, path("here"), flags).result(), Errc::exists);
    const std::string below = path("here/below");
    expect_error(co_await File::open(reactor, below, reading()).result(), Errc::not_found);
    flags = reading();
    flags.directory = true;
    expect_error(co_await File::open(reactor, path("here"), flags).result(), Errc::not_found);
    std::string hidden = path("here");
    hidden += '\0';
    hidden += ".qcow2";
    expect_error(co_await File::open(reactor, hidden, reading()).result(), Errc::invalid_argument);
  });
}

TEST_P(NamesContract, OpenTruncatesOnDemand) {
  check([&]() -> Task<> {
    co_await make("file", "abcdef");
    co_await make("file", "X");
    EXPECT_EQ(co_await content("file"), "Xbcdef");
    OpenFlags flags = writing();
    flags.truncate = true;
    auto write = [&](File& file) { return file.write(0, out("Y")); };
    co_await with_file(path("file"), flags, write);
    EXPECT_EQ(co_await content("file"), "Y");
  });
}

TEST_P(NamesContract, WritingNeedsTheFlag) {
  check([&]() -> Task<> {
    co_await make("file", "abc");
    auto write = [&](File& file) -> Task<> {
      EXPECT_FALSE((co_await file.write(0, out("x")).result()).ok());
    };
    co_await with_file(path("file"), reading(), write);
    EXPECT_EQ(co_await content("file"), "abc");
  });
}

TEST_P(NamesContract, ATemporaryFileHasNoName) {
  check([&]() -> Task<> {
    OpenFlags flags;
    flags.write = flags.temporary = true;
    auto use = [&](File& file) -> Task<> {
      co_await file.write(4096, out("scratch"));
      std::string back(7, '?');
      co_await file.read(4096, in(back));
      EXPECT_EQ(back, "scratch");
      EXPECT_EQ(co_await names(), "");
    };
    co_await with_file(directory, flags, use);
  });
}

TEST_P(NamesContract, RenameReplacesUnlessTold) {
  check([&]() -> Task<> {
    co_await make("a", "first");
    co_await make("b", "second");
    const bool no_replace = true;
    const Result<> kept = co_await fs::rename(reactor, path("a"), path("b"), no_replace).result();
    expect_error(kept, Errc::exists);
    EXPECT_EQ(co_await content("b"), "second");
    co_await fs::rename(reactor, path("a"), path("b"));
    EXPECT_EQ(co_await names(), "b");
    EXPECT_EQ(co_await content("b"), "first");
    co_await fs::rename(reactor, path("b"), path("c"), no_replace);
    EXPECT_EQ(co_await names(), "c");
    expect_error(co_await fs::rename(reactor, path("b"), path("d")).result(), Errc::not_found);
  });
}

TEST_P(NamesContract, LinkGivesASecondName) {
  check([&]() -> Task<> {
    co_await make("a", "text");
    IoOp::Extra extra;
    extra.path = path("a");
    extra.path2 = path("b");
    IoOp link(IoOp::Kind::link);
    link.extra = &extra;
    const std::int64_t linked = co_await reactor.perform(link);
    const std::int64_t again = co_await reactor.perform(link);
    EXPECT_EQ(linked, 0);
    EXPECT_EQ(again, -EEXIST);
    co_await fs::unlink(reactor, path("a"));
    EXPECT_EQ(co_await content("b"), "text");
  });
}

TEST_P(NamesContract, AnUnlinkedFileLivesWhileOpen) {
  check([&]() -> Task<> {
    auto use = [&](File& file) -> Task<> {
      co_await file.write(0, out("alive"));
      co_await fs::unlink(reactor, path("file"));
      EXPECT_FALSE(co_await fs::exists(reactor, path("file")));
      std::string back(5, '?');
      co_await file.read(0, in(back));
      EXPECT_EQ(back, "alive");
    };
    co_await with_file(path("file"), writing(), use);
    expect_error(co_await fs::unlink(reactor, path("file")).result(), Errc::not_found);
  });
}

TEST_P(NamesContract, MakesListsAndRemovesDirectories) {
  check([&]() -> Task<> {
    co_await fs::mkdir(reactor, path("dir"));
    expect_error(co_await fs::mkdir(reactor, path("dir")).result(), Errc::exists);
    for (const char* name : {"dir/c", "dir/a", "dir/b"}) co_await make(name, name);
    EXPECT_EQ(co_await names("dir"), "a b c");
    EXPECT_EQ((co_await fs::stat(reactor, path("dir"))).type, FileInfo::Type::directory);
    co_await fs::sync_dir(reactor, path("dir"));
    expect_error(co_await fs::rmdir(reactor, path("dir")).result(), Errc::exists);
    for (const char* name : {"dir/c", "dir/a", "dir/b"}) co_await fs::unlink(reactor, path(name));
    co_await fs::rmdir(reactor, path("dir"));
    EXPECT_EQ(co_await names(), "");
    expect_error(co_await fs::list(reactor, path("dir")).result(), Errc::not_found);
    expect_error(co_await fs::sync_dir(reactor, path("dir")).result(), Errc::not_found);
  });
}

TEST_P(NamesContract, ReplaceLeavesOneWholeFile) {
  check([&]() -> Task<> {
    co_await fs::replace(reactor, path("file"), "one");
    EXPECT_EQ(co_await content("file"), "one");
    const std::string large = pattern(300'000, 1);
    co_await fs::replace(reactor, path("file"), large);
    EXPECT_EQ(co_await content("file"), large);
    EXPECT_EQ(co_await names(), "file");
  });
}

TEST_P(NamesContract, AReplaceThatFailsLeavesNothing) {
  check([&]() -> Task<> {
    co_await fs::mkdir(reactor, path("dir"));
    co_await make("dir/inside", "");
    EXPECT_FALSE((co_await fs::replace(reactor, path("dir"), "text").result()).ok());
    EXPECT_EQ(co_await names(), "dir");
    const std::string nowhere = path("none/file");
    expect_error(co_await fs::replace(reactor, nowhere, "text").result(), Errc::not_found);
  });
}

TEST_P(NamesContract, ReadAllIsBound) {
  check([&]() -> Task<> {
    co_await make("file", "12345");
    EXPECT_EQ(co_await fs::read_all(reactor, path("file"), 5), "12345");
    const Result<std::string> large = co_await fs::read_all(reactor, path("file"), 4).result();
    expect_error(large, Errc::out_of_range);
    EXPECT_EQ(large.error().message(), "read '" + path("file") + "': larger than 4 bytes");
    co_await make("empty", "");
    EXPECT_EQ(co_await fs::read_all(reactor, path("empty"), 0), "");
  });
}

}  // namespace
}  // namespace tidemark::contract
