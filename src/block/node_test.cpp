// Requests of one node: bounds, alignment, splitting, marking, flags, statistics.
#include "base/random.hpp"
#include "block/test_driver.hpp"
#include "io/aligned.hpp"
#include "io/threads/threads_backend.hpp"

namespace tidemark::test {


namespace {

class NodeTest : public BlockTest {
 protected:
  // A disk filled with a pattern that `expected` mirrors.
  void make(TestDriverOptions options, NodeOptions node_options = {}) {
    driver = &add_disk("disk", options, node_options);
    driver->content() = expected = bytes_of(options.size, 1);
    edge = &attach(node("disk"));
  }
  static TestDriverOptions with_limits(BlockLimits limits, std::uint64_t size = 64 * KiB) {
    TestDriverOptions options;
    options.limits = limits;
    options.size = size;
    return options;
  }

  Result<> write(std::uint64_t offset, std::size_t size, WriteFlags flags = WriteFlags::none) {
    const auto data = bytes_of(size, offset + 2);
    const Result<> outcome = reactor.run(edge->write(offset, Buffers::of_const(data), flags));
    if (outcome) std::copy(data.begin(), data.end(), expected.begin() + static_cast<long>(offset));
    return outcome;
  }
  void expect_read(std::uint64_t offset, std::size_t size) {
    std::vector<std::byte> got(size);
    run(edge->read(offset, Buffers(got)));
    EXPECT_TRUE(std::equal(got.begin(), got.end(), expected.begin() + static_cast<long>(offset)))
        << size << " bytes at " << offset;
  }
  void expect_content() { EXPECT_TRUE(driver->content() == expected); }

  TestDriver* driver = nullptr;
  Edge* edge = nullptr;
  std::vector<std::byte> expected;
};

TEST_F(NodeTest, PassesAlignedRequestsThrough) {
  make({});
  EXPECT_TRUE(write(512, 1024).ok());
  expect_read(0, 4096);
  const std::vector<Logged> calls = {{Call::write, {512, 1024}}, {Call::read, {0, 4096}}};
  EXPECT_EQ(driver->log, calls);
  expect_content();
}

TEST_F(NodeTest, RefusesWhatReachesBeyondTheEnd) {
  make({});
  EXPECT_EQ(write(64 * KiB - 511, 512).error().code(), Errc::out_of_range);
  EXPECT_EQ(write(~std::uint64_t{0} - 100, 512).error().code(), Errc::out_of_range);
  std::vector<std::byte> memory(512);
  EXPECT_EQ(error_of(edge->read(64 * KiB, Buffers(memory))).message(),
            "read node 'disk': 512 bytes at 65536 reach beyond its end at 65536");
  EXPECT_EQ(error_of(edge->write_zeroes({64 * KiB, 1})).code(), Errc::out_of_range);
  EXPECT_EQ(error_of(edge->discard({1, 64 * KiB})).code(), Errc::out_of_range);
  EXPECT_TRUE(driver->log.empty());
  expect_content();
}

TEST_F(NodeTest, RefusesWritesToReadOnlyNodes) {
  driver = &add_disk("disk", {}, {.name = {}, .read_only = true});
  const Permissions writer{P::write, P::all};
  const auto denied = Edge::attach(node("disk"), Role::root, writer, "writer");
  ASSERT_FALSE(denied.ok());
  EXPECT_EQ(denied.error().code(), Errc::permission);
  edge = &attach(node("disk"), {P::consistent_read, P::all});
  expected.resize(64 * KiB);
  EXPECT_EQ(write(0, 512).error().to_errno(), EROFS);
  EXPECT_EQ(error_of(edge->truncate(0)).to_errno(), EROFS);
  EXPECT_TRUE(driver->log.empty());
}

TEST_F(NodeTest, PadsSmallWritesToUnits) {
  make(with_limits({.request_align = 4096, .memory_align = 512}));
  EXPECT_TRUE(write(512, 512).ok());
  const std::vector<Logged> calls = {{Call::read, {0, 4096}}, {Call::write, {0, 4096}}};
  EXPECT_EQ(driver->log, calls);
  expect_content();
}

TEST_F(NodeTest, PadsToUnitsLargerThanItsBuffers) {
  TestDriverOptions options;
  options.size = 8 * MiB;
  options.limits = {.request_align = 2 * MiB};
  driver = &add_disk("disk", options);
  edge = &attach(node("disk"));
  expected.resize(options.size);
  EXPECT_TRUE(write(1 * MiB, 4096).ok());
  EXPECT_TRUE(write(2 * MiB, 4 * MiB).ok());
  EXPECT_TRUE(write(3 * MiB + 512, 2 * MiB).ok());
  expect_read(1 * MiB, 4096);
  expect_read(1 * MiB + 512, 4 * MiB);
  expect_content();
}

TEST_F(NodeTest, PadsBothEndsOfALongWrite) {
  make(with_limits({.request_align = 4096, .memory_align = 512}));
  EXPECT_TRUE(write(4096 - 512, 4096 * 2 + 1024).ok());
  const std::vector<Logged> calls = {
      {Call::read, {0, 4096}}, {Call::read, {12288, 4096}}, {Call::write, {0, 16384}}};
  EXPECT_EQ(driver->log, calls);
  expect_content();
}

TEST_F(NodeTest, AnyRequestMatchesThePlainModel) {
  Prng prng(7);
  for (const std::uint32_t align : {1u, 512u, 4096u})
    for (const std::uint32_t max : {0u, 4096u, 12288u}) {
      SCOPED_TRACE(testing::Message() << "align " << align << ", max_transfer " << max);
      close_all();
      make(with_limits({.request_align = align, .memory_align = align, .max_transfer = max}));
      for (int i = 0; i < 200; ++i) {
        const std::uint64_t offset = prng.below(64 * KiB);
        const std::uint64_t size =
            1 + prng.below(std::min<std::uint64_t>(64 * KiB - offset, 20000));
        if (prng.chance(1, 2))
          EXPECT_TRUE(write(offset, size).ok());
        else
          expect_read(offset, size);
      }
      expect_content();
    }
}

TEST_F(NodeTest, SplitsToMaxTransfer) {
  make(with_limits({.request_align = 512, .max_transfer = 4096}));
  EXPECT_TRUE(write(0, 10 * 1024).ok());
  const std::vector<Logged> calls = {
      {Call::write, {0, 4096}}, {Call::write, {4096, 4096}}, {Call::write, {8192, 2048}}};
  EXPECT_EQ(driver->log, calls);
  expect_read(512, 9 * 1024);
  EXPECT_EQ(driver->count(Call::read), 3u);
}

TEST_F(NodeTest, CopiesMisalignedMemory) {
  make(with_limits({.request_align = 512, .memory_align = 512}));
  AlignedBuffer memory(8192);
  const MutableBytes odd = memory.bytes().subspan(3, 4096);
  run(edge->read(4096, Buffers(odd)));
  EXPECT_TRUE(std::equal(odd.begin(), odd.end(), expected.begin() + 4096));
  run(edge->write(0, Buffers(odd)));
  std::copy(odd.begin(), odd.end(), expected.begin());
  expect_content();
}

TEST_F(NodeTest, ScatteredBuffersAreOneRequest) {
  make(with_limits({.request_align = 512, .memory_align = 512}));
  auto data = bytes_of(4096, 99);
  std::vector<iovec> pieces;
  for (std::size_t at = 0, step = 1; at < data.size(); at += step, step = step * 3 % 1000 + 1)
    pieces.push_back({data.data() + at, std::min(step, data.size() - at)});
  run(edge->write(8192, Buffers(pieces)));
  std::copy(data.begin(), data.end(), expected.begin() + 8192);
  expect_content();
  std::vector<std::byte> got(4096);
  for (iovec& piece : pieces)
    piece.iov_base = got.data() + (static_cast<std::byte*>(piece.iov_base) - data.data());
  run(edge->read(8192, Buffers(pieces)));
  EXPECT_TRUE(got == data);
}

TEST_F(NodeTest, TheOddTailOfASectorReadsZero) {
  make(with_limits({}, 1000));
  EXPECT_EQ(edge->size(), 1024u);
  expected.resize(1024);
  expect_read(512, 512);
  const Extent tail = run(edge->map({1000, 24}));
  EXPECT_EQ(tail.mapping, Mapping::zero);
  EXPECT_EQ(run(edge->map({512, 512})).range, (Range{512, 488}));
  EXPECT_TRUE(write(1000, 24).ok());
  expect_content();
}

TEST_F(NodeTest, ASizeThatIsNoMultipleOfTheUnit) {
  make(with_limits({.request_align = 4096, .memory_align = 1}, 4096 + 512));
  EXPECT_TRUE(write(4096, 512).ok());
  expected.resize(8192);  // the driver keeps the padding in this test
  expect_content();
  expect_read(1, 4000);
}

TEST_F(NodeTest, EmptyRequestsSucceed) {
  make(with_limits({.request_align = 4096, .memory_align = 4096}));
  EXPECT_TRUE(write(700, 0).ok());
  run(edge->read(64 * KiB, {}));
  run(edge->write_zeroes({700, 0}));
  run(edge->discard({700, 0}));
  expect_content();
}

TEST_F(NodeTest, FuaFlushesWhereTheDriverCannot) {
  make({});
  EXPECT_TRUE(write(0, 512, WriteFlags::fua).ok());
  const std::vector<Logged> calls = {{Call::write, {0, 512}}, {Call::flush, {}}};
  EXPECT_EQ(driver->log, calls);
}

TEST_F(NodeTest, FuaReachesADriverThatCan) {
  TestDriverOptions options;
  options.fua = true;
  make(options);
  EXPECT_TRUE(write(0, 512, WriteFlags::fua).ok());
  const std::vector<Logged> calls = {{Call::write, {0, 512}, WriteFlags::fua}};
  EXPECT_EQ(driver->log, calls);
  driver->log.clear();
  run(edge->write_zeroes({0, 4096}, WriteFlags::fua));
  EXPECT_EQ(driver->log.back().call, Call::flush);
}

TEST_F(NodeTest, NoFlushSkipsFlushesAndFua) {
  TestDriverOptions options;
  make(options, {.name = {}, .cache_no_flush = true});
  run(edge->flush());
  EXPECT_TRUE(write(0, 512, WriteFlags::fua).ok());
  run(edge->write_zeroes({0, 512}, WriteFlags::fua));
  EXPECT_EQ(driver->count(Call::flush), 0u);
}

TEST_F(NodeTest, ZeroesFallBackToWriting) {
  TestDriverOptions options = with_limits({.request_align = 512, .max_transfer = 4096});
  options.zeroes = false;
  make(options);
  run(edge->write_zeroes({1000, 9000}));
  std::fill_n(expected.begin() + 1000, 9000, std::byte{0});
  expect_content();
  EXPECT_EQ(error_of(edge->write_zeroes({1024, 4096}, WriteFlags::no_fallback)).code(),
            Errc::unsupported);
  expect_content();
}

TEST_F(NodeTest, ZeroesAreAlignedAndSplit) {
  make(with_limits({.request_align = 512, .write_zeroes_align = 4096, .max_zeroes = 8192 + 512}));
  run(edge->write_zeroes({100, 20000}));
  std::fill_n(expected.begin() + 100, 20000, std::byte{0});
  expect_content();
  EXPECT_EQ(driver->count(Call::zeroes), 2u);  // [4096, 12288) and [12288, 16384+...)
  run(edge->write_zeroes({5000, 100}));        // inside one unit: written
  std::fill_n(expected.begin() + 5000, 100, std::byte{0});
  expect_content();
}

TEST_F(NodeTest, UnmapIsWithheldFromNodesAboveWhereDiscardIsIgnored) {
  make({}, {.name = {}, .discard = false});
  run(edge->write_zeroes({0, 4096}, WriteFlags::may_unmap));           // a guest's: it asks for what it means
  run(edge->discard({4096, 4096}));
  const auto below = *Edge::attach(node("disk"), Role::file, {P::write, P::all}, "test");
  run(below->write_zeroes({0, 4096}, WriteFlags::may_unmap));
  const std::vector<Logged> calls = {{Call::zeroes, {0, 4096}, WriteFlags::may_unmap}, {Call::zeroes, {0, 4096}}};
  EXPECT_EQ(driver->log, calls);
}

TEST_F(NodeTest, DiscardLeavesUnalignedEndsAlone) {
  make(with_limits({.discard_align = 4096, .max_zeroes = 8192 + 512}));
  run(edge->discard({100, 3 * 8192}));
  const std::vector<Logged> calls = {{Call::discard, {4096, 8192}},
                                     {Call::discard, {12288, 8192}},
                                     {Call::discard, {20480, 4096}}};
  EXPECT_EQ(driver->log, calls);
  run(edge->discard({100, 4000}));
  EXPECT_EQ(driver->count(Call::discard), 3u);
}

TEST_F(NodeTest, DiscardIsAdvice) {
  TestDriverOptions options;
  options.discards = false;
  make(options);
  run(edge->discard({0, 4096}));
  EXPECT_EQ(driver->count(Call::discard), 1u);
}

TEST_F(NodeTest, DetectsZeroes) {
  make({}, {.name = {}, .detect_zeroes = DetectZeroes::on});
  const std::vector<std::byte> zeroes(4096);
  run(edge->write(4096, Buffers::of_const(zeroes)));
  const std::vector<Logged> calls = {{Call::zeroes, {4096, 4096}}};
  EXPECT_EQ(driver->log, calls);
  EXPECT_TRUE(write(0, 512).ok());
  EXPECT_EQ(driver->log.back().call, Call::write);
}

TEST_F(NodeTest, ErrorsOfTheDriverArePassedOnAndCounted) {
  make({});
  driver->fail_next(Error(Errc::no_space, "full", ENOSPC));
  EXPECT_EQ(write(0, 512).error().to_errno(), ENOSPC);
  EXPECT_TRUE(write(0, 512).ok());
  const BlockStats& stats = node("disk").stats();
  EXPECT_EQ(stats.write.failed, 1u);
  EXPECT_EQ(stats.write.operations, 1u);
  EXPECT_EQ(stats.write.bytes, 512u);
  expect_read(0, 4096);
  EXPECT_EQ(stats.read.bytes, 4096u);
}

TEST_F(NodeTest, MarksBeforeTheDriverSeesTheWrite) {
  make({});
  NodeBitmap& bitmap = **node("disk").bitmaps().add("b", 64 * KiB, 4096);
  driver->hold();
  const auto data = bytes_of(512, 3);
  Background writing = start(edge->write(8192 + 100, Buffers::of_const(data)));
  EXPECT_EQ(driver->waiting, 1u);
  EXPECT_TRUE(bitmap.bits().test(8192));
  driver->release();
  EXPECT_TRUE(finish(writing).ok());
  run(edge->write_zeroes({0, 10}));
  run(edge->discard({20480, 4096}));
  EXPECT_EQ(bitmap.dirty_bytes(), 3 * 4096u);
}

TEST_F(NodeTest, WritesThatChangeNothingMarkNothing) {
  make({});
  NodeBitmap& bitmap = **node("disk").bitmaps().add("b", 64 * KiB, 4096);
  EXPECT_TRUE(write(0, 512, WriteFlags::unchanged).ok());
  expect_read(0, 512);
  EXPECT_FALSE(write(64 * KiB, 512).ok());
  EXPECT_EQ(bitmap.dirty_bytes(), 0u);
}

TEST_F(NodeTest, WritesWaitForAdmission) {
  make({});
  auto tracking = std::make_unique<TestTracking>(reactor);
  TestTracking& admission = *tracking;
  node("disk").set_tracking(std::move(tracking));
  const auto data = bytes_of(512, 3);
  Background writing = start(edge->write(512, Buffers::of_const(data)));
  Background zeroing = start(edge->write_zeroes({4096, 4096}));
  Background discarding = start(edge->discard({8192, 4096}));
  settle();
  EXPECT_TRUE(driver->log.empty());
  const std::vector<Range> asked = {{512, 512}, {4096, 4096}, {8192, 4096}};
  EXPECT_EQ(admission.asked, asked);
  admission.open.set();
  EXPECT_TRUE(finish(writing).ok());
  EXPECT_TRUE(finish(zeroing).ok());
  EXPECT_TRUE(finish(discarding).ok());
  EXPECT_EQ(driver->log.size(), 3u);
}

// It was made while the disk was resized.
TEST_F(NodeTest, TrackingThatComesLateHearsTheSize) {
  make({});
  auto tracking = std::make_unique<TestTracking>(reactor);
  TestTracking& admission = *tracking;
  Edge& resizer = attach(node("disk"), {P::resize, P::all});
  ASSERT_TRUE(reactor.run(resizer.truncate(32 * KiB)).ok());
  node("disk").set_tracking(std::move(tracking));
  EXPECT_EQ(admission.size_seen, 32 * KiB);
}

TEST_F(NodeTest, WhatIsCutOffOrRegrownIsAdmittedToo) {
  make({});
  auto tracking = std::make_unique<TestTracking>(reactor);
  TestTracking& admission = *tracking;
  node("disk").set_tracking(std::move(tracking));
  NodeBitmap& bitmap = **node("disk").bitmaps().add("b", 64 * KiB, 4096);
  Edge& resizer = attach(node("disk"), {P::resize, P::all});
  Background shrinking = start(resizer.truncate(32 * KiB));
  settle();
  EXPECT_EQ(node("disk").size(), 64 * KiB);
  EXPECT_EQ(bitmap.dirty_bytes(), 32 * KiB);
  admission.open.set();
  EXPECT_TRUE(finish(shrinking).ok());
  EXPECT_EQ(admission.size_seen, 32 * KiB);
  EXPECT_EQ(bitmap.dirty_bytes(), 0u);
  admission.open.reset();
  Background growing = start(resizer.truncate(64 * KiB));
  settle();
  admission.open.set();
  EXPECT_TRUE(finish(growing).ok());
  const std::vector<Range> asked = {{32 * KiB, 32 * KiB}, {32 * KiB, 32 * KiB}};
  EXPECT_EQ(admission.asked, asked);
  EXPECT_EQ(bitmap.dirty_bytes(), 32 * KiB);
}

TEST_F(NodeTest, WhatIsUnderWayMarksABitmapThatBeginsMeanwhile) {
  make({});
  NodeBitmaps& bitmaps = node("disk").bitmaps();
  NodeBitmap& cleared = **bitmaps.add("cleared", node("disk").size(), 512);
  std::vector<std::byte> data(512);
  const Range zeroed{4096, 512}, discarded{8192, 512};
  driver->hold();
  Background requests[] = {start(edge->write(0, Buffers(data))), start(edge->write_zeroes(zeroed)),
                           start(edge->discard(discarded))};
  NodeBitmap& added = **bitmaps.add("added", node("disk").size(), 512);
  (void)cleared.bits().take();
  bitmaps.begun();
  EXPECT_EQ(added.dirty_bytes() + cleared.dirty_bytes(), 0u);
  driver->fail_next(Error(Errc::io, "too bad"));     // one of them: it may have changed something
  driver->release();
  for (Background& request : requests) (void)finish(request);
  EXPECT_EQ(added.dirty_bytes(), 3 * 512u);
  EXPECT_EQ(cleared.dirty_bytes(), 3 * 512u);
}

TEST_F(NodeTest, ResizingMarksWhatIsRegrown) {
  make({});
  NodeBitmap& bitmap = **node("disk").bitmaps().add("b", 64 * KiB, 4096);
  Edge& resizer = attach(node("disk"), {P::resize, P::all});
  run(resizer.truncate(128 * KiB));  // beyond what it ever was: clean
  EXPECT_EQ(bitmap.bits().size(), 128 * KiB);
  EXPECT_EQ(bitmap.dirty_bytes(), 0u);
  run(resizer.truncate(32 * KiB));
  run(resizer.truncate(256 * KiB));
  EXPECT_EQ(bitmap.dirty_bytes(), 96 * KiB);
  EXPECT_TRUE(bitmap.bits().test(32 * KiB));
  EXPECT_FALSE(bitmap.bits().test(128 * KiB));
}

// Neighbours in one unit, written side by side: neither is lost.
TEST_F(NodeTest, ReadModifyWriteLosesNoNeighbour) {
  make(with_limits({.request_align = 4096, .memory_align = 512}));
  driver->hold();
  std::vector<std::vector<std::byte>> data;
  std::vector<Background> writes;
  for (std::uint64_t i = 0; i < 8; ++i) data.push_back(bytes_of(512, 100 + i));
  for (std::uint64_t i = 0; i < 8; ++i) {
    std::copy(data[i].begin(), data[i].end(), expected.begin() + static_cast<long>(512 * i));
    writes.push_back(start(edge->write(512 * i, Buffers::of_const(data[i]))));
  }
  EXPECT_EQ(driver->waiting, 1u);  // one at a time
  driver->release();
  for (Background& write : writes) EXPECT_TRUE(finish(write).ok());
  expect_content();
}

TEST_F(NodeTest, WholeUnitsGoSideBySide) {
  make(with_limits({.request_align = 4096, .memory_align = 1}));
  driver->hold();
  const auto data = bytes_of(4096, 5);
  std::vector<Background> writes;
  for (std::uint64_t i = 0; i < 4; ++i)
    writes.push_back(start(edge->write(4096 * i, Buffers::of_const(data))));
  EXPECT_EQ(driver->waiting, 4u);
  driver->release();
  for (Background& write : writes) EXPECT_TRUE(finish(write).ok());
}

}  // namespace
}  // namespace tidemark::test
