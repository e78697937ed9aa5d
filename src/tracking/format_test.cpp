// The root and the catalogue: what is written is read, what is damaged is told.
#include <gtest/gtest.h>

#include "base/random.hpp"
#include "tracking/catalogue.hpp"
#include "tracking/coverage.hpp"
#include "tracking/space.hpp"
#include "tracking/superblock.hpp"

namespace tidemark::tracking {
namespace {

Superblock some_root() {
  Superblock root;
  root.store_id = 77;
  root.version = 5;
  root.generation = 4;
  root.mode = Mode::process;
  root.clean = true;
  root.log_bytes = 64 * KiB;
  root.log_epoch = 9;
  root.catalogue = {root.data_start(), root.data_start() + 8192};
  root.catalogue_bytes = 100;
  root.catalogue_sum = 3;
  root.boot_id = "b";
  root.image.device = 1;
  root.image.change_time_ns = -5;
  root.image.birth_time_ns = 4;
  root.image.canaries = {{4096, 8}};
  root.closed = true;
  root.mark = 9;
  root.marked = true;
  root.digest = 6;
  return root;
}

TEST(Superblock, IsReadAsWritten) {
  const Superblock root = some_root();
  const auto read = Superblock::decode(root.encode());
  ASSERT_TRUE(read.ok() && read->has_value());
  EXPECT_EQ((*read)->encode(), root.encode());
  EXPECT_EQ((*read)->image, root.image);
  EXPECT_TRUE((*read)->clean && (*read)->marked);
  EXPECT_EQ((*read)->digest, 6u);
  EXPECT_TRUE((*read)->closed);
  EXPECT_EQ((*read)->mark, 9u);
}

TEST(Superblock, AnyDamagedByteIsNoSuperblock) {
  const auto good = some_root().encode();
  for (std::size_t at = 0; at < good.size(); ++at) {
    auto bad = good;
    bad[at] ^= std::byte{0x40};
    const auto read = Superblock::decode(bad);
    ASSERT_TRUE(read.ok());
    ASSERT_FALSE(read->has_value()) << at;
  }
}

// A program that knows nothing of groups refuses a store that has something of them.
TEST(Superblock, OneAboutGroupsIsOfAnotherFormat) {
  Superblock root = some_root();
  root.about_groups = true;
  const auto block = root.encode();
  EXPECT_EQ(load_le<std::uint32_t>(block.data() + 8), 2u);
  EXPECT_EQ(load_le<std::uint32_t>(some_root().encode().data() + 8), 1u);
  const auto read = Superblock::decode(block);
  ASSERT_TRUE(read.ok() && read->has_value());
  EXPECT_TRUE((*read)->about_groups);
}

TEST(Superblock, OneThatCannotBeIsAnError) {
  Superblock root = some_root();
  root.catalogue[1] = 4096;
  const auto read = Superblock::decode(root.encode());
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code(), Errc::corrupt);
}

Catalogue some_catalogue() {
  CatalogueEntry entry;
  entry.name = "bitmap0";
  entry.point = "p";
  entry.granularity = 64 * KiB;
  entry.size = entry.size_largest = 16 * TiB;
  entry.enabled = true;
  Segment dense;
  dense.kind = Segment::Kind::dense;
  dense.length = segment_bytes_max;
  dense.position = 1 * MiB;
  Segment dirty;
  dirty.index = 1;
  dirty.count = 8;
  entry.tables[CatalogueEntry::bits] = {dense, dirty};
  Catalogue catalogue;
  catalogue.entries = {entry};
  return catalogue;
}

Catalogue catalogue_about_groups() {
  Catalogue catalogue = some_catalogue();
  catalogue.records = {7, 9};
  catalogue.intent = Intent{11, {77, "/other.tidemark"}, some_catalogue().entries};
  catalogue.intent->entries[0].enabled = false;
  return catalogue;
}
constexpr Range data_area{64 * KiB, 4 * MiB};

TEST(Catalogue, IsReadAsWritten) {
  const Catalogue catalogue = some_catalogue();
  const auto read = Catalogue::decode(catalogue.encode(), data_area);
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->encode(), catalogue.encode());
}

TEST(Catalogue, WhatItSaysOfGroupsIsReadAsWritten) {
  const Catalogue catalogue = catalogue_about_groups();
  EXPECT_FALSE(some_catalogue().about_groups());
  const auto read = Catalogue::decode(catalogue.encode(), data_area);
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(read->encode(), catalogue.encode());
  ASSERT_TRUE(read->about_groups() && read->intent);
  EXPECT_EQ(read->intent->keeper.path, "/other.tidemark");
  EXPECT_TRUE(read->entries[0].enabled && !read->intent->entries[0].enabled);
  Catalogue records_only = catalogue;
  records_only.intent.reset();
  const auto again = Catalogue::decode(records_only.encode(), data_area);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->records, (std::vector<std::uint64_t>{7, 9}));
  EXPECT_FALSE(again->intent);
}

TEST(Catalogue, RefusesWhatCannotBeOfGroups) {
  Catalogue outside = catalogue_about_groups();
  outside.intent->entries[0].tables[CatalogueEntry::bits][0].position = 0;
  EXPECT_FALSE(Catalogue::decode(outside.encode(), data_area).ok());
  Catalogue many = catalogue_about_groups();
  many.records.resize(Catalogue::records_max + 1);
  EXPECT_FALSE(Catalogue::decode(many.encode(), data_area).ok());
  auto bytes = catalogue_about_groups().encode();
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(Catalogue::decode(bytes, data_area).ok());
  bytes.resize(bytes.size() - 2);
  EXPECT_FALSE(Catalogue::decode(bytes, data_area).ok());
}

TEST(Catalogue, RefusesPlacesOutsideOrderAndDoubleNames) {
  Catalogue outside = some_catalogue();
  outside.entries[0].tables[CatalogueEntry::bits][0].position = 0;
  EXPECT_FALSE(Catalogue::decode(outside.encode(), data_area).ok());
  Catalogue overlapping = some_catalogue();
  overlapping.entries[0].tables[CatalogueEntry::bits][1].index = 0;
  EXPECT_FALSE(Catalogue::decode(overlapping.encode(), data_area).ok());
  Catalogue beyond = some_catalogue();
  beyond.entries[0].tables[CatalogueEntry::bits][1].count = ~std::uint64_t{0};
  EXPECT_FALSE(Catalogue::decode(beyond.encode(), data_area).ok());
  Catalogue twice = some_catalogue();
  twice.entries.push_back(twice.entries[0]);
  EXPECT_FALSE(Catalogue::decode(twice.encode(), data_area).ok());
}

// What a small file says of them would fill a large memory.
TEST(Catalogue, RefusesSegmentsThatLieInOneAnother) {
  Catalogue catalogue = some_catalogue();
  CatalogueEntry& entry = catalogue.entries[0];
  entry.granularity = 512;
  entry.size = 1 * TiB;
  SegmentTable& table = entry.tables[CatalogueEntry::bits];
  Segment segment = table[0];
  table.clear();
  for (segment.index = 0; segment.index < data_area.length / segment_bytes_max; ++segment.index) table.push_back(segment);
  EXPECT_TRUE(Catalogue::decode(catalogue.encode(), data_area).ok());
  table.push_back(segment);
  EXPECT_FALSE(Catalogue::decode(catalogue.encode(), data_area).ok());
}

TEST(Catalogue, SurvivesAnyBytes) {
  Prng prng(3);
  const auto good = catalogue_about_groups().encode();
  for (int i = 0; i < 20'000; ++i) {
    auto bytes = good;
    for (std::uint64_t n = 1 + prng.below(4); n != 0; --n) bytes[prng.below(bytes.size())] = static_cast<std::byte>(prng());
    bytes.resize(prng.below(bytes.size() + 1));
    (void)Catalogue::decode(bytes, data_area);
  }
}

TEST(Space, NeverHandsOutWhatIsNamed) {
  const Superblock root = some_root();
  const Catalogue catalogue = some_catalogue();
  Space space(root.data_start());
  space.take(root, catalogue);
  const std::uint64_t end = space.end();
  EXPECT_EQ(end, 1 * MiB + segment_bytes_max);
  const Range named[] = {{0, root.data_start() + 4096}, {root.catalogue[1], 100}, {1 * MiB, segment_bytes_max}};
  for (int i = 0; i < 300; ++i) {
    const Range pages = space.allocate(9000);
    for (const Range range : named) EXPECT_FALSE(pages.overlaps(range));
  }
  const Range again = space.allocate(1);
  space.give_back(again);
  EXPECT_EQ(space.allocate(1), again);
}

TEST(Coverage, IntersectsAndSubtracts) {
  DirtyBitmap a(1 * MiB, 4096), b(1 * MiB, 64 * KiB), c(1 * MiB, 4096);
  a.set({0, 128 * KiB});
  b.set({64 * KiB, 256 * KiB});
  intersect(a, b);
  EXPECT_TRUE(covers(a, {64 * KiB, 64 * KiB}));
  EXPECT_EQ(a.dirty_bytes(), 64 * KiB);
  c.set({64 * KiB, 4096});
  subtract(a, c);
  EXPECT_EQ(a.dirty_bytes(), 60 * KiB);
  EXPECT_FALSE(covers(a, {64 * KiB, 1}));
  EXPECT_FALSE(covers(a, {1 * MiB, 1}));
  // Of a disk that has grown: nothing is known of what it has become larger by.
  DirtyBitmap larger(2 * MiB, 4096);
  larger.set_all();
  intersect(larger, c);
  EXPECT_EQ(larger.dirty_bytes(), 4096u);
}

// Random runs, so that chunks are clean, dirty, mixed and cut off; or strewn ones.
DirtyBitmap some_bits(Prng& prng, std::uint64_t size, std::uint64_t granularity) {
  DirtyBitmap bits(size, granularity);
  if (prng.chance(1, 3)) {
    for (std::uint64_t n = prng.below(40); n != 0; --n) bits.set({prng.below(size), 1});
    return bits;
  }
  if (prng.chance(1, 3)) bits.set_all();
  for (std::uint64_t n = prng.below(40); n != 0; --n) {
    const std::uint64_t at = prng.below(size), most = prng.chance(1, 4) ? size - at : std::min<std::uint64_t>(size - at, 64 * granularity);
    const Range range{at, 1 + prng.below(most)};
    if (prng.chance(2, 3)) bits.set(range);
    else bits.clear(range);
  }
  return bits;
}

TEST(Coverage, IsWhatEachGranuleSays) {
  Prng prng(7);
  for (int round = 0; round < 100; ++round) {
    const std::uint64_t grain = 512, size = grain * (1 + prng.below(110'000)) - prng.below(2) * 100;
    const std::uint64_t coarse = prng.chance(1, 3) ? 4096 : grain;
    const DirtyBitmap a = some_bits(prng, size, grain), b = some_bits(prng, size, coarse), c = some_bits(prng, size, grain);
    DirtyBitmap both = a.clone(), rest = a.clone();
    intersect(both, b);
    subtract(rest, c);
    for (std::uint64_t at = 0; at < size; at += grain) {
      ASSERT_EQ(both.test(at), a.test(at) && b.test(at)) << at << " of " << size;
      ASSERT_EQ(rest.test(at), a.test(at) && !c.test(at)) << at << " of " << size;
    }
  }
}

TEST(Identity, TellsAnotherImage) {
  ImageIdentity before;
  before.device = 1;
  before.inode = 2;
  before.size = 3;
  before.change_time_ns = 4;
  EXPECT_FALSE(difference(before, before, true));
  ImageIdentity written = before;
  written.change_time_ns = 5;
  EXPECT_TRUE(difference(before, written, true));
  EXPECT_FALSE(difference(before, written, false));
  ImageIdentity replaced = before;
  replaced.inode = 9;
  EXPECT_TRUE(difference(before, replaced, false));
}

TEST(Identity, TellsOfWritesToADevice) {
  ImageIdentity before;
  before.is_device = true;
  before.stable_id = "dm-uuid-LVM-1";
  before.writes = {"boot 7", 100};
  ImageIdentity now = before;
  EXPECT_FALSE(difference(before, now, true));
  now.writes.sectors = 101;
  EXPECT_TRUE(difference(before, now, true));
  EXPECT_FALSE(difference(before, now, false));            // the guest wrote
  now.writes.since = "boot 8";
  EXPECT_FALSE(difference(before, now, true)) << "the device is another one to the kernel: it tells nothing";
  now.writes = {};
  EXPECT_FALSE(difference(before, now, true)) << "where the kernel does not count";
  now.writes = {"boot 7", DeviceWrites::not_counted};
  EXPECT_FALSE(difference(before, now, true)) << "somebody has told it not to";
  std::swap(before, now);
  EXPECT_FALSE(difference(before, now, true)) << "and to go on";
}

// Mounted through another device, or after another boot, a file has another device number.
TEST(Identity, AFileIsTheSameOnAFileSystemWithAnotherNumber) {
  ImageIdentity before;
  before.device = 1;
  before.inode = 2;
  before.birth_time_ns = 5;
  ImageIdentity now = before;
  now.device = 7;
  EXPECT_FALSE(difference(before, now, false));
  EXPECT_FALSE(difference(before, now, true));
  EXPECT_TRUE(difference(before, now, false, true)) << "it was mounted all the time";
  before.birth_time_ns = now.birth_time_ns = 0;
  EXPECT_TRUE(difference(before, now, false)) << "its number may be another file's there";
  EXPECT_FALSE(difference(before, now, true)) << "the change time tells";
  now.change_time_ns = 3;
  EXPECT_TRUE(difference(before, now, true));
}

// Udev makes them one after another, and a package update or a second path may add a surer one.
TEST(Identity, ADeviceIsTheSameAsLongAsItHasTheName) {
  ImageIdentity before;
  before.is_device = true;
  before.stable_id = "scsi-SQEMU_7";
  before.writes = {"boot 7", 100};
  ImageIdentity now = before;
  now.stable_id = "wwn-0x5";
  now.writes.since = "later 3";
  for (const bool clean : {false, true}) {
    now.names = {"wwn-0x5", "ata-QEMU_7"};
    EXPECT_TRUE(difference(before, now, clean));
    now.names = {"wwn-0x5", "ata-QEMU_7", "scsi-SQEMU_7"};
    EXPECT_FALSE(difference(before, now, clean));
  }
  // One that anybody may give tells no more beside a surer one that was not known then.
  before.stable_id = "dm-name-vg0-disk";
  now.stable_id = "dm-uuid-LVM-2";
  now.names = {"dm-uuid-LVM-2", "dm-name-vg0-disk"};
  EXPECT_FALSE(difference(before, now, false));
  now.writes.since = "boot 8";
  EXPECT_TRUE(difference(before, now, false)) << "it may have been made anew";
}

// Of the file that a loop device shows.
TEST(Identity, ADeviceMayHaveAChangeTime) {
  ImageIdentity before;
  before.is_device = true;
  before.stable_id = "loop-1-2-0-0";
  before.change_time_ns = 5;
  ImageIdentity now = before;
  EXPECT_FALSE(difference(before, now, true));
  now.change_time_ns = 6;
  EXPECT_TRUE(difference(before, now, true));
  EXPECT_FALSE(difference(before, now, false));
  now.change_time_ns = 0;
  EXPECT_FALSE(difference(before, now, true)) << "it is not known";
  std::swap(before, now);
  EXPECT_FALSE(difference(before, now, true)) << "as in roots of older programs";
}

TEST(Identity, TheFileOfALoopDeviceMayComeFromAnOlderFileSystem) {
  ImageIdentity before;
  before.is_device = true;
  before.stable_id = "loop-1-2-0-0";
  before.device = 5;
  ImageIdentity now = before;
  now.device = 6;
  EXPECT_FALSE(difference(before, now, false)) << "its number changes by itself";
  EXPECT_TRUE(difference(before, now, false, true)) << "it was mounted all the time";
  before.device = 0;
  EXPECT_FALSE(difference(before, now, false, true)) << "as in roots of older programs";
}

TEST(Identity, TellsAnotherDevice) {
  ImageIdentity before;
  before.is_device = true;
  before.writes = {"boot 7", 100};
  ImageIdentity now = before;
  for (const bool clean : {false, true}) {
    for (const std::string id : {"", "dm-name-vg0-disk", "dm-uuid-LVM-1"}) {
      before.stable_id = now.stable_id = id;
      now.writes.since = "boot 8";
      EXPECT_EQ(difference(before, now, clean).has_value(), id != "dm-uuid-LVM-1") << id << ": the number of the disk is another";
      now.writes.since = "later 3";
      EXPECT_EQ(difference(before, now, clean).has_value(), id.empty() && !clean) << id << ": the host was started anew";
      now.writes = {};
      EXPECT_FALSE(difference(before, now, clean)) << id << ": nothing is known";
    }
    before.stable_id = "dm-uuid-LVM-1";
    now.stable_id = "dm-uuid-LVM-2";
    EXPECT_TRUE(difference(before, now, clean));
  }
}

// Those who go on with a disk elsewhere write where it was written.
TEST(Identity, SamplesWhereADiskWasWritten) {
  NodeBitmaps bitmaps;
  EXPECT_TRUE(places_written(bitmaps).empty());
  NodeBitmap& old = **bitmaps.add("old", 64 * MiB, 64 * KiB);
  NodeBitmap& latest = **bitmaps.add("latest", 64 * MiB, 64 * KiB);
  old.bits().set_all();
  EXPECT_EQ(places_written(bitmaps).size(), ImageIdentity::canaries_max);
  const Range written{40 * MiB, 64 * KiB};
  latest.bits().set(written);
  const auto places = places_written(bitmaps);
  EXPECT_GE(places.size(), 16u);
  for (const std::uint64_t place : places) EXPECT_TRUE(place >= written.offset && place < written.end()) << place;
}

// A partition that was made again, or an LVM volume that was inactive, of a kernel that does not number devices, has the boot and
// nothing else that tells it from before.
TEST(Identity, CountsThatHaveGoneBackHaveBegunAnew) {
  ImageIdentity before;
  before.is_device = true;
  before.writes = {"boot 7", 100};
  before.canaries = {{0, 1}, {4096, 2}};
  ImageIdentity now = before;
  now.writes.sectors = 99;
  EXPECT_TRUE(difference(before, now, true)) << "who counts anew has not counted what was in between";
  EXPECT_FALSE(difference(before, now, false));
  now.writes.sectors = 100;
  EXPECT_FALSE(difference(before, now, true));
  now.canaries[1].sum = 3;
  EXPECT_TRUE(difference(before, now, true)) << "the samples tell";
  EXPECT_FALSE(difference(before, now, false));
}

// Made anew under its number, elsewhere on the disk.
TEST(Identity, APartitionIsWhereItBegins) {
  ImageIdentity before;
  before.is_device = true;
  before.stable_id = "wwn-0x5-part1";
  before.inode = 2048;
  ImageIdentity now = before;
  for (const bool clean : {false, true}) {
    now.inode = 2048;
    EXPECT_FALSE(difference(before, now, clean));
    now.inode = 40960;
    EXPECT_TRUE(difference(before, now, clean));
    now.inode = 0;
    EXPECT_FALSE(difference(before, now, clean)) << "as in roots of older programs";
  }
}

}  // namespace
}  // namespace tidemark::tracking
