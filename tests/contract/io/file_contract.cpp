// Files: transfers, sizes, allocation, extents, locks.
#include <array>
#include <cstring>

#include "base/random.hpp"
#include "io/aligned.hpp"
#include "tests/contract/io/contract.hpp"

namespace tidemark::contract {
namespace {

class FileContract : public IoContract {
 protected:
  // Opens "file" for writing with `content` in it.
  template <class Use>
  void check_file(std::string content, Use use) {
    check([&]() -> Task<> {
      auto fill_and_use = [&](File& file) -> Task<> {
        co_await file.write(0, out(content));
        co_await use(file);
      };
      co_await with_file(path("file"), writing(), fill_and_use);
    });
  }
  Task<std::string> read(File& file, std::uint64_t offset, std::size_t size) {
    std::string text(size, '?');
    co_await file.read(offset, in(text));
    co_return text;
  }
};
TM_ON_EVERY_WORLD(FileContract);

TEST_P(FileContract, ReadsBackWhatWasWritten) {
  const std::string content = pattern(300'000, 1);
  check_file(content, [&](File& file) -> Task<> {
    EXPECT_EQ(co_await read(file, 0, content.size()), content);
    EXPECT_EQ(co_await read(file, 70'001, 4097), content.substr(70'001, 4097));
    co_await file.write(5, out("changed"));
    EXPECT_EQ(co_await read(file, 4, 9), content.substr(4, 1) + "changed" + content.substr(12, 1));
  });
}

TEST_P(FileContract, ReadsZeroesBeyondTheEnd) {
  check_file("abc", [&](File& file) -> Task<> {
    EXPECT_EQ(co_await read(file, 1, 4), std::string("bc\0\0", 4));
    EXPECT_EQ(co_await read(file, 1000, 3), std::string(3, '\0'));
    EXPECT_EQ(co_await read(file, 0, 0), "");
  });
}

TEST_P(FileContract, AnOperationAtTheEndReturnsNoBytes) {
  check_file("abc", [&](File& file) -> Task<> {
    std::string text(10, '?');
    IoOp op(IoOp::Kind::read, file.handle());
    op.offset = 3;
    op.buffers = in(text);
    const std::int64_t none = co_await reactor.perform(op);
    EXPECT_EQ(none, 0);
    IoOp part(IoOp::Kind::read, file.handle());
    part.offset = 1;
    part.buffers = in(text);
    const std::int64_t two = co_await reactor.perform(part);
    EXPECT_EQ(two, 2);
  });
}

TEST_P(FileContract, WritingBeyondTheEndLeavesZeroesBetween) {
  check_file("abc", [&](File& file) -> Task<> {
    co_await file.write(10'000, out("end"));
    EXPECT_EQ((co_await file.stat()).size, 10'003u);
    EXPECT_EQ(co_await read(file, 3, 9'997), std::string(9'997, '\0'));
  });
}

TEST_P(FileContract, OffsetsBeyondTheLargestFileAreRefused) {
  check_file("abc", [&](File& file) -> Task<> {
    std::string text(3, '?');
    for (const std::uint64_t offset : {~0ull, ~0ull - 1, 1ull << 63}) {
      EXPECT_FALSE((co_await file.write(offset, out("x")).result()).ok());
      EXPECT_FALSE((co_await file.read(offset, in(text)).result()).ok());
    }
    EXPECT_EQ(co_await read(file, 0, 3), "abc");
  });
}

TEST_P(FileContract, GathersAndScatters) {
  check_file("", [&](File& file) -> Task<> {
    std::string a = pattern(1, 1), b = pattern(5000, 2), c = pattern(77, 3);
    const std::array<iovec, 4> from = {
        {{a.data(), 1}, {b.data(), 5000}, {nullptr, 0}, {c.data(), 77}}};
    co_await file.write(100, Buffers(from));
    EXPECT_EQ(co_await read(file, 100, 5078), a + b + c);
    std::string d(4000, '?'), e(1078, '?');
    const std::array<iovec, 2> into = {{{d.data(), 4000}, {e.data(), 1078}}};
    co_await file.read(100, Buffers(into));
    EXPECT_EQ(d + e, a + b + c);
    co_await file.read(100, Buffers(into).slice(3999, 3));
    EXPECT_EQ(d.back(), a[0]);
    EXPECT_EQ(e.substr(0, 2), b.substr(0, 2));
  });
}

TEST_P(FileContract, TakesMorePiecesThanTheSystem) {
  check_file("", [&](File& file) -> Task<> {
    std::string content = pattern(9000, 4);
    std::vector<iovec> pieces;
    for (std::size_t at = 0; at < content.size(); at += 3) pieces.push_back({&content[at], 3});
    co_await file.write(0, Buffers(std::span<const iovec>(pieces)));
    const std::string before = content;
    EXPECT_EQ(co_await read(file, 0, 9000), before);
    content.assign(9000, '?');
    co_await file.read(0, Buffers(std::span<const iovec>(pieces)));
    EXPECT_EQ(content, before);
  });
}

TEST_P(FileContract, TransfersManyMegabytes) {
  const std::string content = pattern(24 * MiB, 5);
  check_file(content, [&](File& file) -> Task<> {
    const std::string back = co_await read(file, 0, content.size());
    EXPECT_TRUE(back == content);
  });
}

TEST_P(FileContract, SyncsAndWritesDurably) {
  check_file("abc", [&](File& file) -> Task<> {
    co_await file.sync();
    const bool durable = true;
    co_await file.write(1, out("X"), durable);
    EXPECT_EQ(co_await read(file, 0, 3), "aXc");
  });
}

TEST_P(FileContract, Truncates) {
  check_file(pattern(10'000, 6), [&](File& file) -> Task<> {
    co_await file.truncate(10);
    EXPECT_EQ((co_await file.stat()).size, 10u);
    co_await file.truncate(MiB);
    EXPECT_EQ((co_await file.stat()).size, MiB);
    EXPECT_EQ(co_await read(file, 10, 9'990), std::string(9'990, '\0'));
  });
}

TEST_P(FileContract, PunchesHoles) {
  const std::string content = pattern(MiB, 7);
  check_file(content, [&](File& file) -> Task<> {
    co_await file.sync();
    const std::uint64_t before = (co_await file.stat()).allocated;
    const Range middle = {256 * KiB, 512 * KiB}, nothing = {0, 0};
    co_await file.allocate(AllocateMode::punch_hole, middle);
    const FileInfo after = co_await file.stat();
    EXPECT_LT(after.allocated, before);
    EXPECT_EQ(after.size, MiB);
    EXPECT_EQ(co_await read(file, 256 * KiB, 512 * KiB), std::string(512 * KiB, '\0'));
    EXPECT_EQ(co_await read(file, 0, 256 * KiB), content.substr(0, 256 * KiB));
    EXPECT_EQ(co_await read(file, 768 * KiB, 256 * KiB), content.substr(768 * KiB));
    co_await file.allocate(AllocateMode::punch_hole, nothing);
  });
}

TEST_P(FileContract, ZeroesRanges) {
  const std::string content = pattern(MiB, 8);
  check_file(content, [&](File& file) -> Task<> {
    const Range range = {1000, 100'000};
    co_await file.allocate(AllocateMode::zero_range, range);
    std::string expected = content;
    expected.replace(1000, 100'000, 100'000, '\0');
    EXPECT_EQ(co_await read(file, 0, MiB), expected);
    EXPECT_EQ((co_await file.stat()).size, MiB);
  });
}

TEST_P(FileContract, Preallocates) {
  check_file("abc", [&](File& file) -> Task<> {
    const Range whole = {0, MiB};
    co_await file.allocate(AllocateMode::preallocate, whole);
    const FileInfo info = co_await file.stat();
    EXPECT_EQ(info.size, MiB);
    EXPECT_GE(info.allocated, MiB);
    EXPECT_EQ(co_await read(file, 0, 5), std::string("abc\0\0", 5));
  });
}

// Walks all extents: they must tile the file and call all of `data` data.
Task<std::uint64_t> holes(File& file, Range data) {
  const std::uint64_t size = (co_await file.stat()).size;
  std::uint64_t at = 0, hole_bytes = 0;
  while (at < size) {
    const FileExtent extent = co_await file.extent(at);
    if (extent.length == 0 || extent.length > size - at) {
      ADD_FAILURE() << "an extent of " << extent.length << " at " << at;
      break;
    }
    if (!extent.data) hole_bytes += extent.length;
    EXPECT_TRUE(extent.data || !data.overlaps({at, extent.length}));
    at += extent.length;
  }
  co_return hole_bytes;
}

TEST_P(FileContract, TellsDataFromHoles) {
  check_file("", [&](File& file) -> Task<> {
    co_await file.truncate(4 * MiB);
    co_await file.write(2 * MiB, out(pattern(64 * KiB, 9)));
    const Range data = {2 * MiB, 64 * KiB};
    EXPECT_GE(co_await holes(file, data), 3 * MiB);
    EXPECT_EQ((co_await file.extent(4 * MiB)).length, 0u);
    EXPECT_EQ((co_await file.extent(5 * MiB)).length, 0u);
    const FileExtent inside = co_await file.extent(2 * MiB + 4096);
    EXPECT_TRUE(inside.data);
    EXPECT_GE(inside.length, 60 * KiB);
    co_await file.write(0, out("x"));
    co_await file.write(4 * MiB - 1, out("x"));
    EXPECT_TRUE((co_await file.extent(4 * MiB - 1)).data);
  });
}

TEST_P(FileContract, DescribesAFile) {
  check_file(pattern(100'000, 10), [&](File& file) -> Task<> {
    const FileInfo info = co_await file.stat();
    const FileInfo by_name = co_await fs::stat(reactor, path("file"));
    EXPECT_EQ(info.type, FileInfo::Type::regular);
    EXPECT_EQ(info.size, 100'000u);
    EXPECT_EQ(by_name.size, info.size);
    EXPECT_EQ(by_name.inode, info.inode);
    EXPECT_EQ(by_name.device, info.device);
    EXPECT_EQ(by_name.change_time_ns, info.change_time_ns);
    EXPECT_TRUE(is_power_of_two(info.logical_block));
    EXPECT_GE(info.logical_block, 512u);
    EXPECT_TRUE(is_power_of_two(info.memory_align));
    EXPECT_FALSE(info.read_only);
  });
}

TEST_P(FileContract, DirectTransfersAreAligned) {
  const std::string content = pattern(20'000, 11);
  check_file(content, [&](File&) -> Task<> {
    OpenFlags flags;
    flags.write = flags.direct = true;
    Result<File> opened = co_await File::open(reactor, path("file"), flags).result();
    if (!opened) co_return;                      // a file system without direct I/O says so
    File file = *std::move(opened);
    AlignedBuffer buffer(24 * KiB);
    const Result<> whole = co_await file.read(0, buffer.bytes()).result();
    EXPECT_TRUE(whole);
    EXPECT_EQ(as_text(buffer.bytes()), content + std::string(24 * KiB - 20'000, '\0'));
    buffer.data()[0] = std::byte{'!'};
    const Buffers block = Buffers(buffer.bytes()).first(4 * KiB);
    const Result<> written = co_await file.write(8 * KiB, block).result();
    EXPECT_TRUE(written);
    co_await file.close();
    EXPECT_EQ(co_await fs::read_all(reactor, path("file"), MiB),
              content.substr(0, 8 * KiB) + "!" + content.substr(1, 4 * KiB - 1) +
                  content.substr(12 * KiB));
  });
}

TEST_P(FileContract, ManyScatteredDirectReadsAtOnce) {
  constexpr std::size_t count = 600, pieces = 16, piece = 4096, size = pieces * piece;
  const std::string content = pattern(4 * MiB, 13);
  check_file(content, [&](File&) -> Task<> {
    OpenFlags flags;
    flags.direct = true;
    Result<File> opened = co_await File::open(reactor, path("file"), flags).result();
    if (!opened) co_return;                      // a file system without direct I/O says so
    File file = *std::move(opened);
    AlignedBuffer memory(count * size);
    std::vector<iovec> into;
    for (std::size_t i = count * pieces; i-- != 0;)
      into.push_back({memory.data() + i * piece, piece});
    const auto offset = [&](std::size_t i) { return i % 1000 * piece; };
    auto all = [&](TaskGroup& group) -> Task<> {
      for (std::size_t i = 0; i < count; ++i)
        group.spawn(file.read(offset(i), Buffers(std::span(into).subspan(i * pieces, pieces))));
      co_await group.join();
    };
    const Result<> done = co_await with_group(reactor, all).result();
    EXPECT_TRUE(done);
    for (std::size_t i = 0; i < count * pieces; ++i) {
      const std::string_view expected(&content[offset(i / pieces) + i % pieces * piece], piece);
      EXPECT_TRUE(std::memcmp(into[i].iov_base, expected.data(), piece) == 0) << i;
    }
    co_await file.close();
  });
}

// With many under way a backend may wait for several to end; timers and other work go on beside.
TEST_P(FileContract, ManyDirectWritesAtOnce) {
  constexpr std::size_t count = 64, piece = 4096;
  const std::string before(count * piece, 'x'), after = pattern(count * piece, 17);
  check_file(before, [&](File&) -> Task<> {
    OpenFlags flags;
    flags.write = flags.direct = true;
    Result<File> opened = co_await File::open(reactor, path("file"), flags).result();
    if (!opened) co_return;                      // a file system without direct I/O says so
    File file = *std::move(opened);
    AlignedBuffer memory(count * piece);
    std::memcpy(memory.data(), after.data(), after.size());
    const auto write = [&](std::size_t i) -> Task<> {
      co_await reactor.sleep(std::chrono::microseconds(10 * (i % 7)));
      co_await file.write(i * piece, memory.bytes().subspan(i * piece, piece));
    };
    auto all = [&](TaskGroup& group) -> Task<> {
      for (std::size_t i = 0; i < count; ++i) group.spawn(write(i));
      co_await group.join();
    };
    const Result<> done = co_await with_group(reactor, all).result();
    EXPECT_TRUE(done);
    co_await file.close();
    EXPECT_EQ(co_await fs::read_all(reactor, path("file"), MiB), after);
  });
}

TEST_P(FileContract, LocksConflictBetweenOpens) {
  check_file("abc", [&](File& first) -> Task<> {
    auto with_second = [&](File& second) -> Task<> {
      using Mode = LockRequest::Mode;
      const auto lock = [](Mode mode, std::uint64_t at) { return LockRequest{mode, at, 1}; };
      const LockRequest shared = lock(Mode::shared, 100), exclusive = lock(Mode::exclusive, 100);
      const LockRequest test = lock(Mode::test_exclusive, 100), unlock = lock(Mode::unlock, 100);
      const LockRequest elsewhere = lock(Mode::exclusive, 101);
      co_await first.lock(shared);
      co_await second.lock(shared);
      expect_error(co_await second.lock(exclusive).result(), Errc::busy);
      expect_error(co_await second.lock(test).result(), Errc::busy);
      co_await second.lock(elsewhere);
      co_await second.lock(unlock);
      co_await first.lock(test);                 // one's own locks do not count
      co_await first.lock(exclusive);
      expect_error(co_await second.lock(shared).result(), Errc::busy);
      co_await first.lock(unlock);
      co_await second.lock(exclusive);
    };
    OpenFlags flags;
    flags.write = true;
    co_await with_file(path("file"), flags, with_second);
    const LockRequest free_again = {LockRequest::Mode::exclusive, 100, 2};
    co_await first.lock(free_again);             // closing gave them back
  });
}

TEST_P(FileContract, RunsAThousandOperationsAtOnce) {
  check_file("", [&](File& file) -> Task<> {
    constexpr std::size_t count = 1000, size = 4096;
    const std::string content = pattern(count * size, 12);
    std::string back(count * size, '?');
    auto write_all = [&](TaskGroup& group) -> Task<> {
      for (std::size_t at = content.size(); at != 0; at -= size)
        group.spawn(file.write(at - size, out(content).slice(at - size, size)));
      co_await group.join();
    };
    auto read_all = [&](TaskGroup& group) -> Task<> {
      for (std::size_t at = 0; at < content.size(); at += size)
        group.spawn(file.read(at, in(back).slice(at, size)));
      co_await group.join();
    };
    co_await with_group(reactor, write_all);
    co_await with_group(reactor, read_all);
    EXPECT_TRUE(back == content);
  });
}

TEST_P(FileContract, OverlappingOperationsOfOneFileAllComplete) {
  check_file(std::string(64 * KiB, 'a'), [&](File& file) -> Task<> {
    const std::string b(64 * KiB, 'b');
    std::string back(64 * KiB, '?');
    auto all = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < 50; ++i) {
        group.spawn(file.write(0, out(b)));
        group.spawn(file.sync());
        group.spawn(file.read(0, in(back)));
      }
      co_await group.join();
    };
    co_await with_group(reactor, all);
    EXPECT_EQ(co_await read(file, 0, 64 * KiB), b);
  });
}

}  // namespace
}  // namespace tidemark::contract
