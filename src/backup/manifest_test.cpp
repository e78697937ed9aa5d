#include "backup/manifest.hpp"

#include <gtest/gtest.h>

#include "base/units.hpp"

namespace tidemark {
namespace {

PointManifest sample() {
  PointManifest manifest;
  manifest.id = "20261121T101500Z-6f3a1c9e";
  manifest.time_ns = 1795256100123456789;
  manifest.seconds = 1.5;
  DiskManifest disk;
  disk.name = "vda";
  disk.node = "disk0";
  disk.size = 10 * GiB + 512;
  disk.base = "20261120T101500Z-00000001";
  disk.granularity = 65536;
  disk.stored_bytes = 123 * 65536;
  disk.sums_digest = Digest::of(as_bytes("sums"));
  disk.bitmap = "tidemark:0123456789abcdef:" + manifest.id + ":vda";
  manifest.disks.push_back(disk);
  disk.name = "vdb";
  disk.base.reset();
  manifest.disks.push_back(disk);
  manifest.machine = Json::object({{"memory", 1024}});
  return manifest;
}

TEST(Manifest, ReadsWhatItWrites) {
  const PointManifest out = sample();
  const auto in = parse_manifest(to_text(out));
  ASSERT_TRUE(in) << in.error().message();
  EXPECT_EQ(in->id, out.id);
  EXPECT_EQ(in->time_ns, out.time_ns);
  ASSERT_EQ(in->disks.size(), 2u);
  EXPECT_EQ(in->disks[0].base, out.disks[0].base);
  EXPECT_EQ(in->disks[0].size, out.disks[0].size);
  EXPECT_EQ(in->disks[0].sums_digest, out.disks[0].sums_digest);
  EXPECT_FALSE(in->disks[1].base);
  EXPECT_EQ(in->machine, out.machine);
  EXPECT_FALSE(in->full());
}

TEST(Manifest, AnyChangedCharacterIsFoundOrHarmless) {
  const std::string text = to_text(sample());
  const std::string same = to_text(*parse_manifest(text));
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    const auto parsed = parse_manifest(changed);
    if (!parsed) continue;
    EXPECT_EQ(to_text(*parsed), same) << "at " << i << ": " << changed.substr(i > 20 ? i - 20 : 0, 40);
  }
}

TEST(Manifest, TruncatedTextIsAnError) {
  const std::string text = to_text(sample());
  for (std::size_t n = 0; n + 2 < text.size(); n += 7) EXPECT_FALSE(parse_manifest(text.substr(0, n)));
}

TEST(Manifest, AMachineThatCouldNotBeReadAgainIsRefused) {
  Json deep;
  for (int i = 0; i < 1024; ++i) {
    Json outer = Json::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  EXPECT_FALSE(check_machine(deep));
  Json wide = Json::array();
  for (int i = 0; i < 200000; ++i) wide.push_back(1);
  EXPECT_TRUE(check_machine(wide));
  for (int i = 0; i < 900; ++i) {
    Json outer = Json::array();
    outer.push_back(std::move(wide));
    wide = std::move(outer);
  }
  EXPECT_FALSE(check_machine(wide));
  EXPECT_TRUE(check_machine(Json::object({{"memory", 1024}})));
  EXPECT_TRUE(check_machine(Json()));
}

TEST(Manifest, ADiskIsKnownByItsIdentity) {
  PointManifest out = sample();
  out.disks[0].identity = "20261101T101500Z-6f3a1c9e";
  auto in = parse_manifest(to_text(out));
  ASSERT_TRUE(in) << in.error().message();
  EXPECT_EQ(in->disks[0].identity, out.disks[0].identity);
  EXPECT_EQ(in->disks[1].identity, "");
  out.disks[0].identity = "../x";
  EXPECT_FALSE(parse_manifest(to_text(out)));
}

TEST(Manifest, AGranuleFitsIntoMemory) {
  PointManifest out = sample();
  out.disks[0].granularity = 2 * MiB;
  EXPECT_TRUE(parse_manifest(to_text(out)));
  out.disks[0].granularity = 4 * MiB;
  EXPECT_FALSE(parse_manifest(to_text(out)));
}

TEST(Manifest, AMachineLeavesRoomForManyDisks) {
  std::size_t fits = 2 * 1024 * 1024;
  while (!check_machine(Json(Json::Array(fits)))) fits -= 4096;
  PointManifest out = sample();
  out.machine = Json(Json::Array(fits));
  DiskManifest disk = out.disks[0];
  for (int i = 0; i < 300; ++i) {
    disk.name = "more" + std::to_string(i);
    out.disks.push_back(disk);
  }
  const auto read = parse_manifest(to_text(out));
  EXPECT_TRUE(read) << read.error().message();
}

TEST(Manifest, LaterVersionsAreRefused) {
  Json json = *parse_json(to_text(sample()));
  json.set("version", 2);
  const auto parsed = parse_manifest(to_text(json));
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code(), Errc::unsupported);
}

TEST(Manifest, NamesThatLeaveTheDirectoryAreRefused) {
  for (const char* name : {"", ".", "..", "a/b", "../x", ".hidden", "a b"}) {
    EXPECT_FALSE(valid_disk_name(name)) << name;
    EXPECT_FALSE(valid_point_id(name)) << name;
  }
  EXPECT_FALSE(valid_disk_name(std::string(65, 'a')));
  EXPECT_TRUE(valid_disk_name("vda-1_x.2"));
}

TEST(Manifest, TimesAreUtc) {
  EXPECT_EQ(utc_time(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(utc_time(1795256100123456789), "2026-11-21T10:15:00Z");
}

TEST(Manifest, IdsSortByTheMillisecond) {
  EXPECT_EQ(utc_time_compact(1795256100123456789), "20261121T101500.123Z");
  EXPECT_EQ(utc_time_compact(0), "19700101T000000.000Z");
  constexpr std::int64_t millisecond = 1'000'000;
  for (const std::int64_t ns : {std::int64_t{951782399999} * millisecond, std::int64_t{1795256100009} * millisecond})
    EXPECT_LT(utc_time_compact(ns) + "-ffffffff", utc_time_compact(ns + millisecond) + "-00000000");
  EXPECT_TRUE(valid_point_id("20261121T101500.123Z-6f3a1c9e"));
  EXPECT_TRUE(valid_point_id("20261121T101500Z-6f3a1c9e")) << "as ids were before";
}

TEST(Digest, HexRoundTrip) {
  const Digest digest = Digest::of(as_bytes("x"));
  Digest back;
  ASSERT_TRUE(Digest::from_hex(digest.to_hex(), back));
  EXPECT_EQ(back, digest);
  EXPECT_FALSE(Digest::from_hex("0123", back));
  EXPECT_FALSE(Digest::from_hex(std::string(31, '0') + "g", back));
  DigestStream stream;
  stream.update(as_bytes("x"));
  EXPECT_EQ(stream.digest(), digest);
}

}  // namespace
}  // namespace tidemark
