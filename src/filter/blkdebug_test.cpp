// Events, states and the errors that follow from them; alignment; and configuration files.
#include "filter/blkdebug.hpp"

#include "tests/support/test_disks.hpp"

namespace tidemark::test {
namespace {

class BlkdebugTest : public testing::Test {
 protected:
  Disks disks{1};
  Content data = Content(4 * KiB, std::byte{1});
  Edge* edge = nullptr;

  void open(BlkdebugOptions options) {
    BlockNode& memory = disks.add("m", *open_memory({MiB}));
    edge = &disks.attach(disks.add("b", *open_blkdebug(memory, std::move(options))));
  }
  static BlkdebugRule error(DebugEvent event, std::int64_t state = 0) {
    BlkdebugRule rule;
    rule.event = event;
    rule.state = state;
    return rule;
  }
  static BlkdebugRule change(DebugEvent event, std::int64_t from, std::int64_t to) {
    BlkdebugRule rule = error(event, from);
    rule.new_state = to;
    return rule;
  }
  bool writes(std::uint64_t offset = 0) { return disks.process.run(edge->write(offset, Buffers::of_const(data))).ok(); }
  bool reads(std::uint64_t offset = 0) { return disks.process.run(edge->read(offset, Buffers(data))).ok(); }
  bool flushes() { return disks.process.run(edge->flush()).ok(); }
};

TEST_F(BlkdebugTest, FailsAfterItsEventUntilAnother) {
  open({{error(DebugEvent::write_aio)}});
  EXPECT_TRUE(writes());
  edge->tell(DebugEvent::read_aio);
  EXPECT_TRUE(writes());
  edge->tell(DebugEvent::write_aio);
  EXPECT_FALSE(writes());
  EXPECT_FALSE(reads());                          // whatever comes
  edge->tell(DebugEvent::read_aio);               // no rule has an error for it
  EXPECT_FALSE(writes());
}

TEST_F(BlkdebugTest, TheLastEventsErrorsCount) {
  BlkdebugRule reading = error(DebugEvent::read_aio);
  reading.error.kinds = 1u << static_cast<unsigned>(RequestKind::read);
  reading.error.os_errno = ENOSPC;
  open({{error(DebugEvent::write_aio), reading}});
  edge->tell(DebugEvent::write_aio);
  edge->tell(DebugEvent::read_aio);
  EXPECT_TRUE(writes());
  const Error failed = disks.error_of(edge->read(0, Buffers(data)));
  EXPECT_EQ(failed.to_errno(), ENOSPC);
  EXPECT_EQ(failed.message(), "node 'm': injected error: read: No space left on device");
}

TEST_F(BlkdebugTest, OnceAndWhere) {
  BlkdebugRule once = error(DebugEvent::none);
  once.error.once = true;
  once.error.set_sector(16);
  open({{once}});
  EXPECT_TRUE(writes(0));
  EXPECT_TRUE(writes(12 * KiB));
  EXPECT_FALSE(writes(8 * KiB));
  EXPECT_TRUE(writes(8 * KiB));
}

TEST_F(BlkdebugTest, TheSecondWriteFails) {
  open({{change(DebugEvent::write_aio, 1, 2), error(DebugEvent::write_aio, 2)}});
  edge->tell(DebugEvent::write_aio);
  EXPECT_TRUE(writes());
  edge->tell(DebugEvent::write_aio);
  EXPECT_FALSE(writes());
}

TEST_F(BlkdebugTest, WritesTellOfThemselves) {
  BlkdebugRule before = error(DebugEvent::pwritev_zero);
  before.error.once = true;
  open({{change(DebugEvent::pwritev_done, 1, 2), before, error(DebugEvent::pwritev, 2)}});
  EXPECT_FALSE(disks.process.run(edge->write_zeroes({0, 4096})).ok());
  EXPECT_FALSE(writes());
}

TEST_F(BlkdebugTest, AFlushFailsWhereThereIsSomethingToFlush) {
  BlkdebugRule flushing = error(DebugEvent::none);
  flushing.error.kinds = 1u << static_cast<unsigned>(RequestKind::flush);
  open({{flushing}});
  EXPECT_TRUE(flushes());
  EXPECT_TRUE(writes());
  EXPECT_FALSE(flushes());
}

TEST_F(BlkdebugTest, DelaysOnly) {
  BlkdebugRule slow = error(DebugEvent::none);
  slow.error.os_errno = 0;
  slow.error.delay_ns = 1'000'000;
  open({{slow}});
  const Instant before = disks.world.now();
  EXPECT_TRUE(writes());
  EXPECT_GE(disks.world.now() - before, std::chrono::milliseconds(1));
}

TEST_F(BlkdebugTest, RequestsAreOfItsAlignment) {
  BlkdebugOptions options;
  options.align = 4096;
  options.max_transfer = 8192;
  options.rules = {error(DebugEvent::pwritev_rmw_head)};
  open(options);
  EXPECT_TRUE(writes());
  EXPECT_FALSE(writes(512));
}

TEST_F(BlkdebugTest, ADiskThatEndsWithinAUnit) {
  BlockNode& memory = disks.add("odd", *open_memory({MiB + 512}));
  BlkdebugOptions options;
  options.align = 4096;
  edge = &disks.attach(disks.add("b", *open_blkdebug(memory, options)));
  data.resize(512);
  EXPECT_TRUE(writes(MiB));
  EXPECT_TRUE(reads(MiB));
  EXPECT_EQ(data[511], std::byte{1});
}

TEST_F(BlkdebugTest, RefusesWhatCannotBe) {
  BlockNode& memory = disks.add("m", *open_memory({MiB}));
  BlkdebugOptions options;
  options.align = 3;
  EXPECT_EQ(open_blkdebug(memory, options).error().message(), "Cannot meet constraints with align 3");
  options.align = 4096;
  options.max_transfer = 1000;
  EXPECT_EQ(open_blkdebug(memory, options).error().message(), "Cannot meet constraints with max-transfer 1000");
  options.max_transfer = 0;
  options.opt_write_zero = 8192;
  options.max_write_zero = 4096;
  EXPECT_EQ(open_blkdebug(memory, options).error().message(), "Cannot meet constraints with max-write-zero 4096");
}

TEST(BlkdebugConfig, IsRead) {
  const auto rules = parse_blkdebug_config(
      "# two\n\n[inject-error \"x\"]\n event = \"read_aio\"\nerrno = \"28\"\nsector=\nonce = \"on\"\n"
      "[set-state]\nevent = \"l2_load\"\nstate = \"0x1\"\nnew_state = \"2\"\n");
  ASSERT_FALSE(rules.ok());                       // what stands before the blank is the key
  EXPECT_EQ(rules.error().message(), "Invalid parameter 'sector='");
  const auto good = parse_blkdebug_config(
      "[inject-error]\nevent = \"read_aio\"\nerrno = \"28\"\nonce = \"on\"\niotype = \"write-zeroes\"\nsector = \"3\"\n"
      "[set-state]\nevent = \"l2_load\"\nstate = \"0x1\"\nnew_state = \"2\"");
  ASSERT_TRUE(good.ok());
  ASSERT_EQ(good->size(), 2u);
  EXPECT_EQ((*good)[0].error.os_errno, ENOSPC);
  EXPECT_EQ((*good)[0].error.offset, 1536u);
  EXPECT_EQ((*good)[0].error.kinds, 1u << static_cast<unsigned>(RequestKind::write_zeroes));
  EXPECT_TRUE((*good)[0].error.once);
  EXPECT_EQ((*good)[1].event, DebugEvent::l2_load);
  EXPECT_EQ((*good)[1].state, 1);
  EXPECT_EQ((*good)[1].new_state, 2);
}

TEST(BlkdebugConfig, ErrorsAreQemus) {
  const std::pair<const char*, const char*> cases[] = {
      {"[nosuch]\nevent = \"x\"\n", "There is no option group 'nosuch'"},
      {"[inject-error]\nevent = \"xxx\"\n", "invalid parameter value: xxx"},
      {"[inject-error]\nfoo = \"xxx\"\n", "Invalid parameter 'foo'"},
      {"[inject-error]\nevent = read_aio\n", "invalid parameter value: "},
      {"[inject-error]\nerrno = \"5\"\n", "Missing event name for rule"},
      {"[inject-error]\nevent = \"read_aio\"\nerrno = \"x\"\n", "Parameter 'errno' expects a number"},
      {"[inject-error]\nevent = \"read_aio\"\nonce = \"maybe\"\n", "Parameter 'once' expects 'on' or 'off'"},
      {"event = \"read_aio\"\n", "no group defined"},
      {"[inject-error]\nevent = \"read_aio\"\niotype = \"bla\"\n", "invalid parameter value: bla"},
      {"[inject-error", "parse error"},
      {"[", "parse error"}};
  for (const auto& [text, message] : cases) {
    const auto rules = parse_blkdebug_config(text);
    ASSERT_FALSE(rules.ok()) << text;
    EXPECT_EQ(rules.error().message(), message);
  }
}

}  // namespace
}  // namespace tidemark::test
