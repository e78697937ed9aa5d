// A disk's checkpoints are what its bitmaps' names say; what was written since one is what it and the later ones hold.
#include "block/checkpoints.hpp"

#include <gtest/gtest.h>

namespace tidemark {
namespace {

constexpr std::uint64_t disk = 1 * MiB;
constexpr std::uint32_t granule = 4096;

NodeBitmap& add(NodeBitmaps& bitmaps, std::uint64_t taken, const std::string& name, Range written, std::uint32_t granularity = granule) {
  NodeBitmap* bitmap = *bitmaps.add(CheckpointName{taken, name}.bitmap(), disk, granularity);
  bitmap->mark(written);
  return *bitmap;
}

TEST(Checkpoints, AreNamedByTheirBitmaps) {
  const auto found = checkpoint_of("checkpoint:1795331400123456:before: the upgrade");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->taken, 1795331400123456u);
  EXPECT_EQ(found->name, "before: the upgrade");
  EXPECT_EQ(found->bitmap(), "checkpoint:1795331400123456:before: the upgrade");
  for (const char* other : {"", "checkpoint", "checkpoint:", "checkpoint:1", "checkpoint:1:", "checkpoint::x", "checkpoint:x:y",
                            "checkpoint:-1:x", "checkpoint: 1:x", "Checkpoint:1:x", "checkpoint:18446744073709551615:x",
                            "checkpoint:99999999999999999999:x"})
    EXPECT_FALSE(checkpoint_of(other)) << other;
}

TEST(Checkpoints, HaveAnOrderOfTheirOwn) {
  NodeBitmaps bitmaps;
  add(bitmaps, 30, "c", {0, 1});
  ASSERT_TRUE(bitmaps.add("other", disk, granule).ok());
  add(bitmaps, 4, "a", {0, 1});
  add(bitmaps, 10, "b", {0, 1});
  const auto all = checkpoints_in(bitmaps);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_EQ(all[0].name.name, "a");
  EXPECT_EQ(all[1].name.name, "b");
  EXPECT_EQ(all[2].name.name, "c");
  EXPECT_EQ(find_checkpoint(all, "b"), all.begin() + 1);
  EXPECT_EQ(find_checkpoint(all, "other"), all.end());
}

TEST(Checkpoints, SinceIsTheUnion) {
  NodeBitmaps bitmaps;
  add(bitmaps, 1, "a", {0, granule});
  NodeBitmap& b = add(bitmaps, 2, "b", {64 * KiB, 1}, 65536);
  NodeBitmap& c = add(bitmaps, 3, "c", {5 * granule, 1});
  c.freeze();
  c.mark({7 * granule, 1});                // while a job holds it
  const auto all = checkpoints_in(bitmaps);
  const auto since = [&](const char* name) { return written_since(all, find_checkpoint(all, name)); };
  EXPECT_EQ(since("a")->dirty_bytes(), 3 * granule + 65536);
  EXPECT_EQ(since("b")->dirty_bytes(), 2 * granule + 65536);
  EXPECT_EQ(since("b")->granularity(), granule);
  EXPECT_EQ(since("c")->dirty_bytes(), 2 * granule);
  b.set_inconsistent("lost");
  EXPECT_EQ(since("a").error().message(), "Checkpoint 'b' is inconsistent: lost");
  EXPECT_TRUE(since("c").ok());
}

TEST(Checkpoints, TheirBitmapsAreNotChangedOneByOne) {
  NodeBitmaps bitmaps;
  const NodeBitmap& bitmap = add(bitmaps, 1, "a", {0, 1});
  EXPECT_TRUE(check_bitmap(bitmap, BitmapUse::read).ok());
  for (const BitmapUse use : {BitmapUse::modify, BitmapUse::allow_inconsistent})
    EXPECT_EQ(check_bitmap(bitmap, use).error().message(), "Bitmap 'checkpoint:1:a' is a checkpoint's and cannot be modified by itself");
}

}  // namespace
}  // namespace tidemark
