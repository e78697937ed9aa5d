#include "format/qcow2/layout/header.hpp"

#include <gtest/gtest.h>

#include "base/random.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t file_size = 4 * MiB;

Header sample() {
  Header h;
  h.size = GiB;
  h.l1_entries = 2;
  h.l1_at = {3 * 64 * KiB};
  h.refcount_table_at = {64 * KiB};
  h.refcount_table_clusters = 1;
  return h;
}

TEST(Header, ReadsWhatItWrote) {
  Header h = sample();
  h.backing_name = "base.raw";
  h.backing_format = "raw";
  h.compression = CompressionType::zstd;
  h.incompatible = 8;
  h.compatible = 1;
  const auto bytes = serialise_header(h);
  ASSERT_TRUE(bytes.ok());
  EXPECT_EQ(*first_cluster_size(*bytes), 64 * KiB);
  const auto parsed = parse_header(*bytes, file_size);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(parsed->size, GiB);
  EXPECT_EQ(parsed->l1_at, h.l1_at);
  EXPECT_EQ(parsed->refcount_table_at, h.refcount_table_at);
  EXPECT_EQ(parsed->backing_name, "base.raw");
  EXPECT_EQ(parsed->backing_format, "raw");
  EXPECT_EQ(parsed->compression, CompressionType::zstd);
  EXPECT_TRUE(parsed->has(Compatible::lazy_refcounts));
  EXPECT_EQ(parsed->feature_names.size(), 8u);
}

TEST(Header, OfVersion2HasNoFeatures) {
  Header h = sample();
  h.geometry.version = 2;
  h.backing_name = "base";
  const auto bytes = serialise_header(h);
  ASSERT_TRUE(bytes.ok());
  const auto parsed = parse_header(*bytes, file_size);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(parsed->geometry.version, 2u);
  EXPECT_EQ(parsed->geometry.refcount_bits(), 16u);
  EXPECT_EQ(parsed->backing_name, "base");
  EXPECT_EQ(parsed->incompatible, 0u);
}

TEST(Header, SmallClustersKeepTheNamesOut) {
  Header h = sample();
  h.geometry.cluster_bits = 9;
  h.size = MiB;
  h.l1_entries = 32;
  h.backing_name = std::string(200, 'b');
  const auto bytes = serialise_header(h);
  ASSERT_TRUE(bytes.ok());
  const auto parsed = parse_header(*bytes, file_size);
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(parsed->backing_name, h.backing_name);
  EXPECT_TRUE(parsed->feature_names.empty());
}

std::string refusal(const std::vector<std::byte>& bytes) {
  const auto parsed = parse_header(bytes, file_size);
  return parsed ? "parsed" : parsed.error().message();
}

TEST(Header, BitmapsAreItsFields) {
  Header h = sample();
  h.has_bitmaps = true;
  h.bitmaps = 3;
  h.bitmap_directory_at = {5 * h.geometry.cluster_size()};
  h.bitmap_directory_bytes = 100;
  h.set(Autoclear::bitmaps, true);
  const auto bytes = serialise_header(h);
  ASSERT_TRUE(bytes.ok());
  auto read = parse_header(*bytes, 100 * MiB);
  ASSERT_TRUE(read.ok()) << read.error().message();
  EXPECT_EQ(bitmaps_extension(*read), bitmaps_extension(h));
  EXPECT_TRUE(read->more_extensions.empty());
  EXPECT_EQ(read->bitmap_directory().first.index, 5u);
  EXPECT_EQ(read->bitmap_directory().count, 1u);
  read->set(Autoclear::bitmaps, false);
  EXPECT_EQ(read->bitmap_directory().count, 0u);
}

TEST(Header, ExtensionsAreBounded) {
  Header h = sample();
  auto bytes = *serialise_header(h);
  store_be(bytes.data() + 112, std::uint32_t{0x12345678});
  store_be(bytes.data() + 116, std::uint32_t{0xffffffff});
  EXPECT_EQ(refusal(bytes), "Header extension too large");
  store_be(bytes.data() + 116, std::uint32_t{64 * KiB - 120});
  EXPECT_EQ(refusal(bytes), "parsed");             // one that nobody knows, up to the cluster's end
  store_be(bytes.data() + 112, std::uint32_t{0xe2792aca});
  EXPECT_EQ(refusal(bytes), "qcow2: backing format name too long");
  store_be(bytes.data() + 112, std::uint32_t{0x44415441});
  EXPECT_EQ(refusal(bytes), "qcow2: data file name too long");
}

TEST(Header, BackingNamesAreBounded) {
  Header h = sample();
  h.backing_name = "base";
  auto bytes = *serialise_header(h);
  store_be(bytes.data() + 16, std::uint32_t{1024});
  EXPECT_EQ(refusal(bytes), "Backing file name too long");
  store_be(bytes.data() + 16, std::uint32_t{4});
  store_be(bytes.data() + 8, std::uint64_t{64 * KiB - 2});
  EXPECT_EQ(refusal(bytes), "Backing file name reaches beyond the header");
  store_be(bytes.data() + 8, ~std::uint64_t{0});
  EXPECT_EQ(refusal(bytes), "Invalid backing file offset");
}

// As QEMU has it, which else would not open what is opened here.
TEST(Header, FieldsOfWhatIsNotThereAgree) {
  auto bytes = *serialise_header(sample());
  bytes[71] = std::byte{1};
  EXPECT_EQ(refusal(bytes), "Snapshot table offset invalid");
  store_be(bytes.data() + 64, std::uint64_t{1 * GiB});
  EXPECT_EQ(refusal(bytes), "parsed");
  bytes[95] = std::byte{2};
  EXPECT_EQ(refusal(bytes), "data-file-raw requires a data file");
  bytes[79] = std::byte{4};
  EXPECT_EQ(refusal(bytes), "parsed");
}

TEST(Header, CompressionTypeAgreesWithItsBit) {
  auto bytes = *serialise_header(sample());
  bytes[104] = std::byte{1};
  EXPECT_NE(refusal(bytes).find("does not agree"), std::string::npos);
  bytes[79] = std::byte{8};
  EXPECT_EQ(refusal(bytes), "parsed");
  bytes[104] = std::byte{2};
  EXPECT_EQ(refusal(bytes), "qcow2: unknown compression type 2");
}

// Whatever stands there: an error or a header that keeps its promises.
TEST(Header, RandomBytesAreHarmless) {
  Prng prng(3);
  Header h = sample();
  h.backing_name = "base.raw";
  h.backing_format = "raw";
  const auto good = *serialise_header(h);
  int parsed_well = 0;
  for (int i = 0; i < 5000; ++i) {
    auto bytes = good;
    for (std::uint64_t n = 1 + prng.below(4); n != 0; --n) bytes[prng.below(160)] = static_cast<std::byte>(prng());
    if (prng.chance(1, 4)) bytes.resize(1 + prng.below(bytes.size()));
    const auto parsed = parse_header(bytes, file_size);
    if (!parsed) continue;
    ++parsed_well;
    EXPECT_LE(parsed->backing_name.size(), 1023u);
    EXPECT_LE(parsed->l1_entries * 8, 32 * MiB);
    EXPECT_TRUE(parsed->l1_entries == 0 || parsed->l1_at.value < file_size);
  }
  EXPECT_GT(parsed_well, 0);
}

}  // namespace
}  // namespace tidemark::qcow2
