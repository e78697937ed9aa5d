// The order of writes and syncs in a round, as the storage sees them.
#include "format/qcow2/tables/committer.hpp"

#include "block/test_driver.hpp"
#include "format/qcow2/tables/table_cache.hpp"
#include "format/qcow2/tables/top_table.hpp"

namespace tidemark::qcow2 {
namespace {

using test::Call;

class CommitterTest : public test::BlockTest {
 protected:
  static test::TestDriverOptions options() {
    test::TestDriverOptions o;
    o.size = MiB;
    return o;
  }
  test::TestDriver& storage = add_disk("storage", options());
  Edge& edge = attach(node("storage"), {P::consistent_read | P::write | P::resize, P::all});
  ImageFile file{edge, Geometry{}};
  TableCache blocks{reactor, file, DebugEvent::refblock_load, 4096, 16}, l2{reactor, file, DebugEvent::l2_load, 4096, 16};
  TopTable table{file}, l1{file};
  ExtentPins pins;
  FreeList frees{pins};
  Committer committer{reactor, file, {blocks, table, l2, l1, frees}, WriteOrder::standard()};

  static constexpr HostOffset block_at{64 * KiB}, l2_at{128 * KiB}, table_at{192 * KiB}, l1_at{256 * KiB};
  void SetUp() override {
    run(table.load(table_at, 8));
    run(l1.load(l1_at, 8));
  }
  void change(TableCache& cache, HostOffset at) {
    const TableCache::Pin slice = run(cache.get(at));
    slice->set_entry(0, 7);
    cache.changed(*slice);
  }
  // The same when the slice is in memory and the storage busy.
  static void change_now(TableCache& cache, HostOffset at) {
    TableCache::Slice* slice = cache.find(at);
    ASSERT_TRUE(slice);
    slice->set_entry(0, 8);
    cache.changed(*slice);
  }
  // The writes (by offset) and syncs (as "sync") since the last look.
  std::string story() {
    std::string text;
    for (const test::Logged& call : storage.log) {
      if (call.call == Call::flush) text += " sync";
      if (call.call == Call::write) text += " " + std::to_string(call.range.offset / KiB) + "K";
    }
    storage.log.clear();
    return text;
  }
};

TEST_F(CommitterTest, NothingToDoIsOneSync) {
  run(committer.flush());
  EXPECT_EQ(story(), " sync");
}

TEST_F(CommitterTest, DataAndRefcountsAreDurableBeforeTables) {
  file.wrote(Stage::data);
  change(l2, l2_at);
  l1.set(0, 5);
  run(committer.flush());
  EXPECT_EQ(story(), " sync 128K 256K sync");
  change(blocks, block_at);
  change(l2, l2_at);
  run(committer.flush());
  EXPECT_EQ(story(), " 64K sync 128K sync");
}

TEST_F(CommitterTest, BlocksAreDurableBeforeTheirTable) {
  file.wrote(Stage::refcount_blocks);
  table.set(0, 5);
  change(l2, l2_at);
  run(committer.flush());
  EXPECT_EQ(story(), " sync 192K sync 128K sync");
}

TEST_F(CommitterTest, AdjacentSlicesAreOneWrite) {
  change(l2, l2_at + 4096);
  change(l2, l2_at);
  change(l2, l2_at + 3 * 4096);
  run(committer.flush());
  EXPECT_EQ(story(), " 128K 140K sync");
}

TEST_F(CommitterTest, UnderPressureOnlyTheOrderIsKept) {
  change(blocks, block_at);
  change(l2, l2_at);
  run(committer.write_back());
  EXPECT_EQ(story(), " 64K sync 128K");
  EXPECT_FALSE(l2.dirty());
  run(committer.flush());
  EXPECT_EQ(story(), " sync");
}

TEST_F(CommitterTest, FreesWaitForDurableTables) {
  const HostRun run_of_two{{9}, 2};
  change(l2, l2_at);
  frees.add(run_of_two, DiscardCause::never);
  run(committer.write_back());
  EXPECT_FALSE(frees.next(99));
  run(committer.flush());
  EXPECT_EQ(frees.next(99), FreeList::Freed{run_of_two});
}

TEST_F(CommitterTest, WithoutTheRuleFreesDoNotWait) {
  Committer careless{reactor, file, {blocks, table, l2, l1, frees}, WriteOrder()};
  const HostRun one{{9}, 1};
  change(l2, l2_at);
  frees.add(one, DiscardCause::never);
  run(careless.write_back());
  EXPECT_EQ(frees.next(99), FreeList::Freed{one});
}

TEST_F(CommitterTest, WhatFailedIsDirtyAgain) {
  change(blocks, block_at);
  change(l2, l2_at);
  l1.set(0, 5);
  const HostRun one{{9}, 1};
  frees.add(one, DiscardCause::never);
  storage.fail_next(Error(Errc::io, "broken"));
  EXPECT_EQ(error_of(committer.flush()).message(), "broken");
  EXPECT_TRUE(blocks.dirty() && l2.dirty() && l1.dirty() && frees.pending());
  storage.log.clear();
  run(committer.flush());
  EXPECT_EQ(story(), " 64K sync 128K 256K sync");
}

TEST_F(CommitterTest, WhatChangesDuringARoundWaitsForTheNext) {
  change(l2, l2_at);
  storage.hold();
  auto flushing = start(committer.flush());
  change_now(l2, l2_at);
  storage.release();
  EXPECT_TRUE(finish(flushing).ok());
  EXPECT_TRUE(l2.dirty());
  EXPECT_EQ(story(), " 128K sync");
  run(committer.flush());
  EXPECT_EQ(story(), " 128K sync");
}

TEST_F(CommitterTest, FlushesShareARound) {
  change(l2, l2_at);
  storage.hold();
  auto first = start(committer.flush());
  change_now(l2, l2_at);
  auto second = start(committer.flush());
  auto third = start(committer.flush());
  storage.release();
  EXPECT_TRUE(finish(first).ok());
  EXPECT_TRUE(finish(second).ok());
  EXPECT_TRUE(finish(third).ok());
  EXPECT_EQ(story(), " 128K sync 128K sync");
}

}  // namespace
}  // namespace tidemark::qcow2
