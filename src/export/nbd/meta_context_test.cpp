// Block status as clients see it: allocation, depth and dirty bitmaps, over shapes of graphs.
#include "export/nbd/meta_context.hpp"

#include "export/nbd/test_bed.hpp"
#include "io/sim/backend.hpp"
#include "nbd/golden.hpp"
#include "storage/null.hpp"

namespace tidemark::test {
namespace {

using nbd::Command;
using nbd::Headers;
using Extents = std::vector<nbd::Extent>;
namespace flag = nbd::command_flag;

// A disk that is mapped as the test says: stretches of equal mapping, then one that goes to the end.
struct Stretch {
  std::uint64_t length;
  Mapping mapping;
};

class MappedDisk : public TestDriver {
 public:
  MappedDisk(Reactor& reactor, TestDriverOptions options, std::vector<Stretch> stretches)
      : TestDriver(reactor, options), stretches_(std::move(stretches)) {}

  Task<Extent> map(Range wanted) override {
    ++maps;
    wanted.length = std::min(wanted.length, map_max);
    std::uint64_t at = 0;
    for (const Stretch& stretch : stretches_) {
      if (wanted.offset < at + stretch.length)
        co_return Extent{wanted.intersect({at, stretch.length}), stretch.mapping, {}};
      at += stretch.length;
    }
    co_return Extent{wanted, Mapping::data, {}};
  }
  std::vector<Edge*> edges() const override {
    return backing ? std::vector<Edge*>{backing.get()} : std::vector<Edge*>{};
  }
  Task<> close() override {
    backing.reset();
    return TestDriver::close();
  }

  std::uint64_t maps = 0;
  std::uint64_t map_max = max_disk_size;     // bytes that one answer covers
  std::unique_ptr<Edge> backing;

 private:
  std::vector<Stretch> stretches_;
};

class NbdMetaContextTest : public testing::TestWithParam<Headers> {
 protected:
  NbdMetaContextTest() { bed.serve(); }

  MappedDisk& add_disk(std::string name, std::vector<Stretch> stretches, TestDriverOptions options = {},
                       std::string_view backing = {}) {
    auto driver = std::make_unique<MappedDisk>(bed.reactor, options, std::move(stretches));
    MappedDisk& disk = *driver;
    if (!backing.empty())
      disk.backing = *Edge::attach(*bed.graph.find(backing), Role::backing, {}, "node '" + name + "'");
    NodeOptions node;
    node.name = std::move(name);
    node.monitor_owned = true;
    EXPECT_TRUE(bed.reactor.run(bed.graph.add(node, std::move(driver))).ok());
    return disk;
  }
  NodeBitmap& add_bitmap(std::string_view node, std::string name, std::uint32_t granularity = 512) {
    BlockNode& on = *bed.graph.find(node);
    return **on.bitmaps().add(std::move(name), on.size(), granularity);
  }
  void add_export(std::string_view node, std::vector<NbdExportOptions::BitmapName> bitmaps = {},
                  std::string name = "") {
    NbdExportOptions options;
    options.name = std::move(name);
    options.allocation_depth = true;
    options.writable = !bitmaps.empty() && !bed.graph.find(node)->read_only();
    options.bitmaps = std::move(bitmaps);
    bed.add_export(node, options);
  }
  // The extents of the only context asked for.
  static Extents status(RawNbdClient& client, Range range, std::uint16_t flags = 0) {
    const Answer answer = client.command(Command::block_status, range.offset, range.length, flags);
    EXPECT_EQ(answer.error, 0u) << answer.message;
    EXPECT_EQ(answer.status.size(), 1u);
    return answer.status.empty() ? Extents() : answer.status[0].extents;
  }
  Extents status_of(const std::string& context, Range range, std::uint16_t flags = 0) {
    auto client = bed.client();
    client.enter(GetParam(), "", {context});
    return status(client, range, flags);
  }

  SimWorld world{1};
  SimBackend io{world};
  NbdBed bed{io};
};
INSTANTIATE_TEST_SUITE_P(Headers, NbdMetaContextTest,
                         testing::Values(Headers::structured, Headers::extended));

TEST_P(NbdMetaContextTest, AllocationSaysHoleAndZero) {
  add_disk("node", {{4096, Mapping::data}, {4096, Mapping::zero}, {4096, Mapping::zero_allocated},
                    {4096, Mapping::compressed}, {4096, Mapping::below}});
  add_export("node");
  const Extents expected{{4096, 0}, {8192, 3}, {4096, 0}, {4096, 3}, {45056, 0}};
  EXPECT_EQ(status_of("base:allocation", {0, 65536}), expected);
  const Extents part{{2048, 0}, {1024, 3}};
  EXPECT_EQ(status_of("base:allocation", {2048, 3072}), part);
}

TEST_P(NbdMetaContextTest, OneExtentWhenAskedForOne) {
  add_disk("node", {{4096, Mapping::data}, {4096, Mapping::zero}});
  add_export("node");
  const Extents expected{{3072, 0}};
  EXPECT_EQ(status_of("base:allocation", {1024, 65536 - 1024}, flag::req_one), expected);
  const Extents within{{512, 0}};
  EXPECT_EQ(status_of("base:allocation", {1024, 512}, flag::req_one), within);
}

TEST_P(NbdMetaContextTest, DepthCountsLayers) {
  add_disk("base", {{4096, Mapping::zero}, {4096, Mapping::below}});
  add_disk("top", {{2048, Mapping::data}, {62 * KiB, Mapping::below}}, {}, "base");
  add_export("top");
  const Extents depth{{2048, 1}, {2048, 2}, {4096, 0}, {57344, 2}};
  EXPECT_EQ(status_of("qemu:allocation-depth", {0, 65536}), depth);
  const Extents allocation{{2048, 0}, {6144, 3}, {57344, 0}};
  EXPECT_EQ(status_of("base:allocation", {0, 65536}), allocation);
}

TEST_P(NbdMetaContextTest, DirtyBitmaps) {
  add_disk("base", {});
  add_disk("node", {}, {}, "base");
  NodeBitmap& here = add_bitmap("node", "here");
  NodeBitmap& below = add_bitmap("base", "below", 4096);
  here.bits().set({1024, 512});
  here.bits().set({65024, 512});
  below.bits().set({0, 65536});
  add_export("node", {{"", "here"}, {"", "below"}});
  const Extents expected{{1024, 0}, {512, 1}, {63488, 0}, {512, 1}};
  EXPECT_EQ(status_of("qemu:dirty-bitmap:here", {0, 65536}), expected);
  const Extents all{{65536, 1}};
  EXPECT_EQ(status_of("qemu:dirty-bitmap:below", {0, 65536}), all);
}

TEST_P(NbdMetaContextTest, ABitmapOfAShorterNodeIsCleanBeyond) {
  TestDriverOptions shorter;
  shorter.size = 4096;
  add_disk("short", {}, shorter);
  add_disk("node", {});
  add_bitmap("short", "b").bits().set_all();
  add_export("node", {{"short", "b"}});
  const Extents expected{{4096, 1}, {61440, 0}};
  EXPECT_EQ(status_of("qemu:dirty-bitmap:b", {0, 65536}), expected);
  const Extents beyond{{512, 0}};
  EXPECT_EQ(status_of("qemu:dirty-bitmap:b", {8192, 512}), beyond);
}

TEST_P(NbdMetaContextTest, EachContextHasItsChunk) {
  add_disk("node", {{4096, Mapping::zero}});
  add_bitmap("node", "b").bits().set({0, 512});
  add_export("node", {{"", "b"}});
  auto client = bed.client();
  client.enter(GetParam(), "", {"base:allocation", "qemu:dirty-bitmap:b"});
  const Answer answer = client.command(Command::block_status, 0, 65536);
  ASSERT_EQ(answer.status.size(), 2u);
  EXPECT_NE(answer.status[0].context, answer.status[1].context);
  const Extents allocation{{4096, 3}, {61440, 0}}, dirty{{512, 1}, {65024, 0}};
  EXPECT_EQ(answer.status[0].extents, allocation);
  EXPECT_EQ(answer.status[1].extents, dirty);
}

TEST_P(NbdMetaContextTest, StatusOfNothingAndBeyondTheEnd) {
  add_disk("node", {});
  add_export("node");
  auto client = bed.client();
  client.enter(GetParam(), "", {"base:allocation"});
  EXPECT_EQ(client.command(Command::block_status, 0, 0).error, 22u);
  EXPECT_EQ(client.command(Command::block_status, 65536, 512).error, 22u);
  EXPECT_EQ(client.command(Command::block_status, 512, 65536).error, 22u);
  EXPECT_EQ(client.command(Command::block_status, 0, 512, flag::df).error, 22u);
}

TEST_P(NbdMetaContextTest, ErrorsOfTheDiskReachTheClient) {
  class Broken : public TestDriver {
   public:
    using TestDriver::TestDriver;
    Task<Extent> map(Range) override {
      co_await Error(Errc::io, "broken");
      co_return Extent{};
    }
  };
  NodeOptions node;
  node.name = "node";
  node.monitor_owned = true;
  auto driver = std::make_unique<Broken>(bed.reactor, TestDriverOptions());
  ASSERT_TRUE(bed.reactor.run(bed.graph.add(node, std::move(driver))).ok());
  add_export("node");
  auto client = bed.client();
  client.enter(GetParam(), "", {"base:allocation"});
  EXPECT_EQ(client.command(Command::block_status, 0, 512).error, 5u);
  EXPECT_EQ(client.read(0, 512).error, 0u);
}

// The status changes in the middle of blocks of the size that the client is held to.
TEST_P(NbdMetaContextTest, ExtentsAreWholeBlocks) {
  TestDriverOptions coarse;
  coarse.limits.request_align = 4096;
  add_disk("node", {{6000, Mapping::zero}, {10384, Mapping::data}, {4096, Mapping::zero}}, coarse);
  NodeBitmap& bitmap = add_bitmap("node", "b");
  bitmap.bits().set({4096 + 512, 512});
  add_export("node", {{"", "b"}});
  auto client = bed.client();
  client.enter(GetParam(), "", {"base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"},
               {nbd::Info::block_size});
  const Answer answer = client.command(Command::block_status, 0, 65536);
  ASSERT_EQ(answer.status.size(), 3u);
  const Extents allocation{{4096, 3}, {12288, 0}, {4096, 3}, {45056, 0}};
  const Extents depth{{65536, 1}};
  const Extents dirty{{4096, 0}, {4096, 1}, {57344, 0}};
  EXPECT_EQ(answer.status[0].extents, allocation);
  EXPECT_EQ(answer.status[1].extents, depth);
  EXPECT_EQ(answer.status[2].extents, dirty);
}

TEST_P(NbdMetaContextTest, LongAnswersAreCut) {
  TestDriverOptions large;
  large.size = 64 * MiB;
  add_disk("node", {}, large);
  NodeBitmap& bitmap = add_bitmap("node", "b");
  for (std::uint64_t at = 0; at < large.size; at += 1024) bitmap.bits().set({at, 512});
  add_export("node", {{"", "b"}});
  auto client = bed.client();
  client.enter(GetParam(), "", {"qemu:dirty-bitmap:b"});
  const Extents first = status(client, {0, large.size});
  ASSERT_LE(nbd::status_payload_size(first.size(), GetParam()), 1 * MiB);
  ASSERT_GT(first.size(), 1000u);
  // What follows is where it stopped.
  std::uint64_t at = 0;
  for (const auto& extent : first) at += extent.length;
  EXPECT_LT(at, large.size);
  const Extents next{{512, 1}};
  EXPECT_EQ(status(client, {at, 512}), next);
}

TEST_P(NbdMetaContextTest, OthersAreServedWhileALongAnswerIsMade) {
  TestDriverOptions large;
  large.size = 64 * MiB;
  MappedDisk& disk = add_disk("node", {}, large);
  disk.map_max = 512;
  add_export("node");
  auto busy = bed.client(), other = bed.client();
  busy.enter(GetParam(), "", {"base:allocation"});
  other.enter(GetParam());
  const nbd::Request query{0, Command::block_status, 1, 0, large.size};
  busy.send_request(query);
  EXPECT_EQ(other.read(0, 512).error, 0u);
  EXPECT_LT(disk.maps, large.size / 512);
  const Extents whole{{large.size, 0}};
  EXPECT_EQ(busy.receive_reply(query).status.at(0).extents, whole);
}

// Extended headers only.
class NbdExtendedStatusTest : public NbdMetaContextTest {
 protected:
  static Answer ask(RawNbdClient& client, std::string_view payload) {
    const auto bytes = nbd::hex(payload);
    return client.request({flag::payload_len, Command::block_status, 0, 0, bytes.size()}, bytes);
  }
};
INSTANTIATE_TEST_SUITE_P(Headers, NbdExtendedStatusTest, testing::Values(Headers::extended));

TEST_P(NbdExtendedStatusTest, RangesBeyond32Bits) {
  NodeOptions node;
  node.name = "null";
  node.monitor_owned = true;
  NullOptions options;
  options.size = 16 * TiB;
  auto driver = open_null(bed.reactor, options);
  ASSERT_TRUE(driver.ok());
  ASSERT_TRUE(bed.reactor.run(bed.graph.add(node, *std::move(driver))).ok());
  NodeBitmap& bitmap = add_bitmap("null", "b", 64 * KiB);
  bitmap.bits().set({10 * TiB, 64 * KiB});
  add_export("null", {{"", "b"}});
  const Extents expected{{10 * TiB, 0}, {64 * KiB, 1}, {6 * TiB - 64 * KiB, 0}};
  EXPECT_EQ(status_of("qemu:dirty-bitmap:b", {0, 16 * TiB}), expected);
}

TEST_P(NbdExtendedStatusTest, APayloadChoosesContexts) {
  add_disk("node", {});
  add_bitmap("node", "b");
  add_export("node", {{"", "b"}});
  auto client = bed.client();
  client.enter(GetParam(), "", {"base:allocation", "qemu:dirty-bitmap:b"});
  const Answer both = ask(client, "0000000000001000 00000002 00000000");
  ASSERT_EQ(both.status.size(), 2u);
  EXPECT_EQ(both.status[0].context, 2u);
  const Answer one = ask(client, "0000000000001000 00000002");
  ASSERT_EQ(one.status.size(), 1u);
  const Extents expected{{4096, 0}};
  EXPECT_EQ(one.status[0].extents, expected);
}

TEST_P(NbdExtendedStatusTest, MalformedPayloadsAreInvalid) {
  add_disk("node", {});
  add_bitmap("node", "b");
  add_export("node", {{"", "b"}});
  auto client = bed.client();
  client.enter(GetParam(), "", {"base:allocation", "qemu:dirty-bitmap:b"});
  for (const char* bad : {"00000000000010", "0000000000001000", "0000000000001000 0000",
                          "0000000000001000 00000000 00000000",          // twice
                          "0000000000001000 00000001",                   // not negotiated
                          "0000000000001000 00000000 00000002 00000001",
                          "0000000000100000 00000000",                   // beyond the end
                          "0000000000000000 00000000"})
    EXPECT_EQ(ask(client, bad).error, 22u) << bad;
  EXPECT_EQ(client.read(0, 512).error, 0u);
}

}  // namespace
}  // namespace tidemark::test
