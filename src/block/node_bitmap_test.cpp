// QEMU's states of a node's bitmaps, and that no state loses a mark.
#include "block/node_bitmap.hpp"

#include <gtest/gtest.h>

namespace tidemark {
namespace {

constexpr std::uint64_t disk = 1 * MiB;
constexpr std::uint32_t granule = 4096;

struct NodeBitmapTest : testing::Test {
  NodeBitmap bitmap{"b", disk, granule};
};

TEST_F(NodeBitmapTest, RecordsWhileEnabled) {
  bitmap.mark({0, 1});
  bitmap.set_enabled(false);
  EXPECT_FALSE(bitmap.recording());
  bitmap.mark({granule, 1});
  EXPECT_EQ(bitmap.dirty_bytes(), granule);
}

TEST_F(NodeBitmapTest, AFrozenBitmapKeepsItsBits) {
  bitmap.mark({0, granule});
  bitmap.freeze();
  EXPECT_TRUE(bitmap.busy());
  EXPECT_TRUE(bitmap.recording());
  bitmap.mark({5 * granule, granule});
  EXPECT_FALSE(bitmap.bits().test(5 * granule));
  EXPECT_TRUE(bitmap.has_successor());
}

TEST_F(NodeBitmapTest, AbdicateLeavesWhatCameSince) {
  bitmap.mark({0, granule});
  bitmap.freeze();
  bitmap.mark({5 * granule, granule});
  bitmap.abdicate();
  EXPECT_FALSE(bitmap.busy());
  EXPECT_FALSE(bitmap.bits().test(0));
  EXPECT_TRUE(bitmap.bits().test(5 * granule));
  bitmap.mark({7 * granule, 1});
  EXPECT_TRUE(bitmap.bits().test(7 * granule));
}

TEST_F(NodeBitmapTest, ReclaimIsTheUnion) {
  bitmap.mark({0, granule});
  bitmap.freeze();
  bitmap.mark({5 * granule, granule});
  bitmap.reclaim();
  EXPECT_FALSE(bitmap.busy());
  EXPECT_TRUE(bitmap.bits().test(0));
  EXPECT_TRUE(bitmap.bits().test(5 * granule));
  EXPECT_EQ(bitmap.dirty_bytes(), 2 * granule);
}

// The store has it so already: what a job then drops is not kept, and what came since stays.
TEST_F(NodeBitmapTest, WhenItsGroupIsDecidedFrozenBitsAreGone) {
  bitmap.set_persistent(true);
  bitmap.mark({0, granule});
  bitmap.freeze();
  bitmap.mark({5 * granule, granule});
  bitmap.drop_with_group(7);
  bitmap.group_decided(8);
  EXPECT_TRUE(bitmap.bits().test(0));
  bitmap.group_decided(7);
  EXPECT_FALSE(bitmap.bits().test(0));
  EXPECT_TRUE(bitmap.busy());
  bitmap.mark({6 * granule, granule});
  bitmap.abdicate();
  EXPECT_FALSE(bitmap.busy() || bitmap.concerns(7) || bitmap.kept());
  EXPECT_TRUE(bitmap.bits().test(5 * granule) && bitmap.bits().test(6 * granule));
  EXPECT_EQ(bitmap.dirty_bytes(), 2 * granule);
}

TEST_F(NodeBitmapTest, AGroupThatIsNotDecidedGivesFrozenBitsBack) {
  bitmap.set_persistent(true);
  bitmap.mark({0, granule});
  bitmap.freeze();
  bitmap.drop_with_group(7);
  bitmap.reclaim();
  EXPECT_FALSE(bitmap.concerns(7));
  EXPECT_TRUE(bitmap.bits().test(0));
}

TEST_F(NodeBitmapTest, NothingIsKeptForAGroupThatIsDecided) {
  bitmap.set_persistent(true);
  bitmap.mark({0, granule});
  bitmap.hold_for_group(7, true);
  (void)bitmap.clear();
  bitmap.set_enabled(false);
  bitmap.mark({5 * granule, granule});
  EXPECT_TRUE(bitmap.kept() && bitmap.recorder());
  bitmap.group_decided(7);
  EXPECT_FALSE(bitmap.kept() || bitmap.recorder());
  bitmap.end_group();
  EXPECT_FALSE(bitmap.concerns(7));
  EXPECT_TRUE(bitmap.bits().empty());
}

TEST_F(NodeBitmapTest, AReadOnlyOneIsRead) {
  bitmap.set_read_only();
  EXPECT_TRUE(check_bitmap(bitmap, BitmapUse::read).ok());
  for (const BitmapUse use : {BitmapUse::modify, BitmapUse::allow_inconsistent}) {
    const Result<> refused = check_bitmap(bitmap, use);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().message(), "Bitmap '" + bitmap.name() + "' is readonly and cannot be modified");
  }
}

TEST_F(NodeBitmapTest, ADisabledBitmapStaysDisabledThroughAJob) {
  bitmap.mark({0, granule});
  bitmap.set_enabled(false);
  bitmap.freeze();
  bitmap.mark({5 * granule, granule});
  EXPECT_FALSE(bitmap.recording());
  bitmap.reclaim();
  EXPECT_EQ(bitmap.dirty_bytes(), granule);
  bitmap.freeze();
  bitmap.abdicate();
  EXPECT_EQ(bitmap.dirty_bytes(), 0u);
  EXPECT_FALSE(bitmap.enabled());
}

TEST_F(NodeBitmapTest, FrozenAnewOnlyWhatComesThenIsNew) {
  bitmap.mark({0, granule});
  bitmap.freeze();
  bitmap.mark({granule, granule});
  bitmap.refreeze();
  bitmap.mark({2 * granule, granule});
  EXPECT_EQ(bitmap.dirty_bytes(), 3 * granule);
  bitmap.abdicate();
  EXPECT_EQ(bitmap.dirty_bytes(), granule);
  EXPECT_TRUE(bitmap.bits().test(2 * granule));
  bitmap.freeze();
  bitmap.mark({5 * granule, granule});
  bitmap.refreeze();
  bitmap.mark({6 * granule, granule});
  bitmap.reclaim();
  EXPECT_EQ(bitmap.dirty_bytes(), 3 * granule);
}

TEST_F(NodeBitmapTest, ResizingReachesTheSuccessor) {
  bitmap.freeze();
  bitmap.truncate(2 * disk);
  bitmap.mark({2 * disk - granule, granule});
  bitmap.reclaim();
  EXPECT_TRUE(bitmap.bits().test(2 * disk - 1));
}

TEST_F(NodeBitmapTest, ChecksAreQemus) {
  EXPECT_TRUE(check_bitmap(bitmap, BitmapUse::modify).ok());
  bitmap.set_busy(true);
  EXPECT_EQ(check_bitmap(bitmap, BitmapUse::read).error().message(),
            "Bitmap 'b' is currently in use by another operation and cannot be used");
}

TEST_F(NodeBitmapTest, OnlyAPersistentOneKeepsWhatItDropped) {
  bitmap.mark({0, 1});
  bitmap.keep(bitmap.bits());
  EXPECT_FALSE(bitmap.kept());
  bitmap.set_persistent(true);
  bitmap.freeze();
  bitmap.mark({granule, 1});
  bitmap.abdicate();
  ASSERT_TRUE(bitmap.kept());
  EXPECT_TRUE(bitmap.kept()->bits.test(0));
  EXPECT_FALSE(bitmap.kept()->released);
  bitmap.release_kept();
  const std::uint64_t version = bitmap.kept()->version;
  bitmap.keep(bitmap.bits());             // more is dropped, which nobody has released
  EXPECT_FALSE(bitmap.kept()->released);
  bitmap.forget_kept(version);
  ASSERT_TRUE(bitmap.kept());
  bitmap.forget_kept(bitmap.kept()->version);
  EXPECT_FALSE(bitmap.kept());
}

TEST_F(NodeBitmapTest, SuspicionEndsWithAMarkOrAnAcquittal) {
  DirtyBitmap left(disk, granule);
  left.set({0, 4 * granule});
  bitmap.bits().merge(left);
  bitmap.suspect(left);
  EXPECT_EQ(bitmap.suspected_bytes(), 4 * granule);
  bitmap.mark({granule + 5, 1});
  EXPECT_EQ(bitmap.suspected_bytes(), 3 * granule);
  bitmap.acquit({0, 2 * granule + 1});    // the second was written, of the third not all is known
  EXPECT_EQ(bitmap.suspected_bytes(), 2 * granule);
  EXPECT_FALSE(bitmap.bits().test(0));
  EXPECT_TRUE(bitmap.bits().test(granule));
  EXPECT_TRUE(bitmap.bits().test(2 * granule));
  bitmap.acquit({0, disk});
  EXPECT_EQ(bitmap.dirty_bytes(), granule);
  EXPECT_FALSE(bitmap.suspected());
}

TEST_F(NodeBitmapTest, AnInconsistentOneDoesNotRecord) {
  bitmap.set_inconsistent("the image was changed");
  EXPECT_FALSE(bitmap.recording());
  EXPECT_FALSE(check_bitmap(bitmap, BitmapUse::read).ok());
  EXPECT_TRUE(check_bitmap(bitmap, BitmapUse::allow_inconsistent).ok());
}

TEST(NodeBitmaps, ARetiredOneGoesOnRecording) {
  NodeBitmaps bitmaps;
  NodeBitmap* a = *bitmaps.add("a", disk, granule);
  bitmaps.retire(*a);
  EXPECT_FALSE(bitmaps.find("a"));
  bitmaps.mark({0, 1});
  bitmaps.revive(*a);
  EXPECT_EQ(bitmaps.find("a"), a);
  EXPECT_EQ(a->dirty_bytes(), granule);
  bitmaps.retire(*a);
  bitmaps.bury(*a);
  EXPECT_TRUE(bitmaps.retired().empty());
}

TEST(NodeBitmaps, AddFindRemove) {
  NodeBitmaps bitmaps;
  EXPECT_TRUE(bitmaps.empty());
  NodeBitmap* a = *bitmaps.add("a", disk, granule);
  EXPECT_EQ(bitmaps.find("a"), a);
  EXPECT_EQ(bitmaps.add("a", disk, granule).error().message(), "Bitmap already exists: a");
  EXPECT_EQ(bitmaps.add("", disk, granule).error().message(), "Bitmap name cannot be empty");
  EXPECT_EQ(bitmaps.add(std::string(1024, 'x'), disk, granule).error().code(),
            Errc::invalid_argument);
  EXPECT_EQ(bitmaps.add("b", disk, 511).error().message(), "Granularity must be power of 2 and at least 512");
  EXPECT_EQ(bitmaps.add("b", disk, 1000).error().message(), "Granularity must be power of 2 and at least 512");
  ASSERT_TRUE(bitmaps.add("b", disk, 65536).ok());
  bitmaps.mark({0, 1});
  EXPECT_EQ(a->dirty_bytes(), granule);
  EXPECT_EQ(bitmaps.find("b")->dirty_bytes(), 65536u);
  const auto removed = bitmaps.remove(*a);
  bitmaps.mark({granule, 1});
  EXPECT_EQ(removed->dirty_bytes(), granule);
  EXPECT_EQ(bitmaps.all().size(), 1u);
}

}  // namespace
}  // namespace tidemark
