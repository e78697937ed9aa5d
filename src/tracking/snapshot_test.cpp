// Snapshots against the bitmaps themselves: whatever is done to bitmaps, what is stored is what they are; what has not changed is
// not encoded again; encoding lets others go on.
#include "tracking/snapshot.hpp"

#include <gtest/gtest.h>

#include <map>

#include "base/random.hpp"
#include "block/test_driver.hpp"

namespace tidemark::test {
namespace {

using namespace tracking;

constexpr std::uint64_t disk_size = 256 * MiB, granularity = 512;        // 16 segments
constexpr std::uint64_t id = 5;

class SnapshotTest : public BlockTest {
 protected:
  NodeBitmap& add(std::string name) {
    NodeBitmap& bitmap = **bitmaps.add(std::move(name), size, granularity);
    bitmap.set_persistent(true);
    return bitmap;
  }
  // A checkpoint whose root counts.
  void take(const Losses& losses = {}) {
    const SnapshotPlan plan{id, size, losses, before};
    Snapshot snapshot(bitmaps, plan, space);
    run(snapshot.encode(reactor));
    for (const auto& piece : snapshot.pieces) file[piece.position].assign(piece.bytes.bytes().begin(), piece.bytes.bytes().end());
    before = std::move(snapshot.catalogue);
    forget(bitmaps, losses);
  }
  Bytes bytes_at(const Segment& segment) {
    if (segment.length == 0) return {};
    const auto piece = std::prev(file.upper_bound(segment.position));
    return Bytes(piece->second).subspan(segment.position - piece->first, segment.length);
  }
  DirtyBitmap load(const CatalogueEntry& entry, CatalogueEntry::Part part) {
    DirtyBitmap bits(entry.size, entry.granularity);
    for (const Segment& segment : entry.tables[part]) EXPECT_TRUE(load_segment(bits, segment, bytes_at(segment), id));
    return bits;
  }
  const CatalogueEntry& entry(std::string_view name) {
    return *std::ranges::find_if(before.entries, [name](const CatalogueEntry& e) { return e.name == name; });
  }
  void check() {
    ASSERT_EQ(before.entries.size(), bitmaps.all().size());
    for (const auto& bitmap : bitmaps.all()) {
      const CatalogueEntry& stored = entry(bitmap->name());
      DirtyBitmap bits = bitmap->bits().clone(), none(stored.size, stored.granularity);
      if (bitmap->recorder()) bits.merge(*bitmap->recorder());
      if (bitmap->kept()) bits.merge(bitmap->kept()->bits);
      EXPECT_EQ(load(stored, CatalogueEntry::bits), bits) << bitmap->name();
      EXPECT_EQ(load(stored, CatalogueEntry::successor), bitmap->successor() ? *bitmap->successor() : none) << bitmap->name();
      EXPECT_EQ(load(stored, CatalogueEntry::suspected), bitmap->suspected() ? *bitmap->suspected() : none) << bitmap->name();
    }
  }
  Range some() {
    const std::uint64_t at = random.below(size / granularity) * granularity;
    return Range{at, granularity << random.below(8)}.intersect({0, size});
  }
  void change(NodeBitmap& bitmap);

  Prng random{7};
  std::uint64_t size = disk_size;
  NodeBitmaps bitmaps;
  Space space{4096};
  Catalogue before;
  std::map<std::uint64_t, std::vector<std::byte>> file;
};

void SnapshotTest::change(NodeBitmap& bitmap) {
  const bool grouped = bitmap.of_a_group(), frozen = bitmap.busy();
  DirtyBitmap other(size, granularity);
  other.set(some());
  switch (random.below(14)) {
    case 0: if (!frozen) bitmap.freeze(); break;
    case 1: if (frozen) bitmap.abdicate(); break;
    case 2: if (frozen) bitmap.reclaim(); break;
    case 3: if (frozen) bitmap.refreeze(); break;
    case 4: if (!frozen) (void)bitmap.clear(); break;
    case 5: bitmap.bits().merge(other); break;
    case 6: bitmap.suspect(other); break;
    case 7: bitmap.acquit(some()); break;
    case 8: if (!grouped) bitmap.hold_for_group(1, true); break;
    case 9: if (grouped) bitmap.end_group(); break;
    case 10: bitmap.release_kept(); break;
    case 11: if (!frozen) bitmap.bits() = std::move(other); break;
    case 12: if (!frozen) bitmap.set_enabled(!bitmap.enabled()); break;
    case 13:
      size = random.below(2) == 0 ? disk_size : disk_size - 64 * KiB;
      bitmaps.truncate(size);
      break;
  }
}

TEST_F(SnapshotTest, WhateverIsDoneToBitmapsIsStored) {
  for (const char* name : {"a", "b", "c"}) add(name);
  for (int turn = 0; turn < 1500; ++turn) {
    NodeBitmap& bitmap = *bitmaps.all()[random.below(3)];
    if (random.below(3) == 0) bitmaps.mark(some());
    if (random.below(3) == 0) change(bitmap);
    if (random.below(60) == 0 && !bitmap.busy() && !bitmap.of_a_group()) {          // another one of its name
      const std::string name = bitmap.name();
      (void)bitmaps.remove(bitmap);
      add(name).mark(some());
    }
    if (random.below(4) == 0) take(random.below(2) == 0 ? released_losses(bitmaps) : Losses());
    else continue;
    check();
    if (HasFailure()) FAIL() << "turn " << turn;
  }
}

// A sum that nobody would compute stays as long as nobody looks.
TEST_F(SnapshotTest, WhatHasNotChangedIsNotEncodedAgain) {
  NodeBitmap& still = add("still");
  NodeBitmap& busy = add("busy");
  for (NodeBitmap* bitmap : {&still, &busy}) bitmap->mark({0, 512});
  still.set_enabled(false);
  busy.freeze();
  take();
  const auto sum = [this](std::string_view name) -> std::uint64_t& {
    return const_cast<CatalogueEntry&>(entry(name)).tables[CatalogueEntry::bits].front().sum;
  };
  for (const char* name : {"still", "busy"}) sum(name) = 1;
  bitmaps.mark({64 * KiB, 512});
  take();
  EXPECT_EQ(sum("still"), 1u);
  EXPECT_EQ(sum("busy"), 1u);
  EXPECT_EQ(load(entry("busy"), CatalogueEntry::successor).count(), 1u);
  still.bits().set({64 * KiB, 512});
  take();
  EXPECT_NE(sum("still"), 1u);
  EXPECT_EQ(sum("busy"), 1u);
}

// What the store has is what counts: nothing of a checkpoint that came to nothing.
TEST_F(SnapshotTest, OneThatFailedIsForgotten) {
  NodeBitmap& bitmap = add("a");
  bitmap.mark({0, 512});
  take();
  bitmap.mark({64 * KiB, 512});
  const Losses none;
  const SnapshotPlan plan{id, size, none, before};
  Snapshot failed(bitmaps, plan, space);
  run(failed.encode(reactor));
  take();
  check();
}

TEST_F(SnapshotTest, OthersGoOnWhileItIsEncoded) {
  NodeBitmap& bitmap = add("a");
  for (int i = 0; i < 40; ++i) add("b" + std::to_string(i));
  for (std::uint64_t at = 0; at < size; at += size / 16) bitmaps.mark({at, 512});
  const Losses none;
  const SnapshotPlan plan{id, size, none, before};
  Snapshot snapshot(bitmaps, plan, space);
  int turns = 0;
  bool encoded = false;
  const auto others = [&]() -> Task<> {
    for (; !encoded; ++turns) co_await reactor.yield();
  };
  Background guests = start(others());
  run(snapshot.encode(reactor));
  encoded = true;
  EXPECT_TRUE(finish(guests).ok());
  EXPECT_GE(turns, 41 * 16 / 64 - 1);
  before = std::move(snapshot.catalogue);
  EXPECT_EQ(before.entries.front().tables[CatalogueEntry::bits].size(), 16u);
  EXPECT_TRUE(bitmap.enabled());
}

}  // namespace
}  // namespace tidemark::test
