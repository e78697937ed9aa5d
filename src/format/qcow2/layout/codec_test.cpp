#include "format/qcow2/layout/codec.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.hpp"
#include "format/qcow2/layout/refcount_slice.hpp"

namespace tidemark::qcow2 {
namespace {

class CodecTest : public ::testing::TestWithParam<CompressionType> {
 protected:
  std::size_t compress(Bytes cluster, MutableBytes out) { return codec_.compress(cluster, out); }
  bool decompress(Bytes data, MutableBytes cluster) { return codec_.decompress(data, cluster); }

 private:
  Codec codec_{GetParam()};
};

TEST_P(CodecTest, GivesBackWhatItTook) {
  Prng prng(1);
  std::vector<std::byte> cluster(64 * KiB), packed(64 * KiB), back(64 * KiB);
  for (std::size_t i = 0; i < cluster.size(); ++i) cluster[i] = static_cast<std::byte>(prng.below(4) * (i % 7));
  const std::size_t length = compress(cluster, packed);
  ASSERT_GT(length, 0u);
  ASSERT_LT(length, cluster.size());
  // What follows the data in its last sector belongs to others.
  for (std::size_t i = length; i < packed.size(); ++i) packed[i] = static_cast<std::byte>(prng());
  EXPECT_TRUE(decompress(packed, back));
  EXPECT_EQ(back, cluster);
}

TEST_P(CodecTest, SaysWhenItDoesNotFit) {
  Prng prng(2);
  std::vector<std::byte> cluster(4096), packed(4095);
  for (auto& b : cluster) b = static_cast<std::byte>(prng());
  EXPECT_EQ(compress(cluster, packed), 0u);
}

TEST_P(CodecTest, RefusesWhatIsCutOrDamaged) {
  std::vector<std::byte> cluster(4096, std::byte{1}), packed(4096), back(4096);
  for (std::size_t i = 0; i < cluster.size(); ++i) cluster[i] = static_cast<std::byte>(i * i >> 4);
  const std::size_t length = compress(cluster, packed);
  ASSERT_GT(length, 16u);
  EXPECT_FALSE(decompress(Bytes(packed).first(length / 2), back));
  EXPECT_FALSE(decompress({}, back));
  std::vector<std::byte> longer(8192);
  EXPECT_FALSE(decompress(Bytes(packed).first(length), longer));
  const std::vector<std::byte> noise(512, std::byte{0x8f});
  EXPECT_FALSE(decompress(noise, back));
}

// Others' programs may have ended the data otherwise than ours do.
TEST_P(CodecTest, TakesTheStartOfWhatIsLonger) {
  std::vector<std::byte> longer(8192), packed(8192), back(4096);
  for (std::size_t i = 0; i < longer.size(); ++i) longer[i] = static_cast<std::byte>(i * i >> 4);
  const std::size_t length = compress(longer, packed);
  ASSERT_GT(length, 0u);
  EXPECT_TRUE(decompress(Bytes(packed).first(length), back));
  longer.resize(back.size());
  EXPECT_EQ(back, longer);
}

// One codec, many clusters: none leaves anything behind for the next.
TEST_P(CodecTest, WorksOnAfterAFailure) {
  std::vector<std::byte> cluster(4096), packed(4096), back(4096);
  for (std::size_t i = 0; i < cluster.size(); ++i) cluster[i] = static_cast<std::byte>(i * i >> 4);
  const std::vector<std::byte> noise(512, std::byte{0x8f});
  std::size_t first = 0;
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(compress(cluster, MutableBytes(packed).first(16)), 0u);
    const std::size_t length = compress(cluster, packed);
    if (round == 0) first = length;
    EXPECT_EQ(length, first);
    EXPECT_FALSE(decompress(noise, back));
    EXPECT_FALSE(decompress(Bytes(packed).first(length / 2), back));
    EXPECT_TRUE(decompress(Bytes(packed).first(length), back));
    EXPECT_EQ(back, cluster);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CodecTest, ::testing::Values(CompressionType::zlib, CompressionType::zstd));

TEST(RefcountEntries, EveryWidthKeepsItsNeighbours) {
  for (std::uint32_t order = 0; order <= 6; ++order) {
    const std::uint64_t count = 512 * 8 >> order;
    const std::uint64_t mask = order == 6 ? ~std::uint64_t{0} : (std::uint64_t{1} << (1u << order)) - 1;
    std::vector<std::byte> block(512);
    std::vector<std::uint64_t> model(count);
    Prng prng(order);
    for (int i = 0; i < 2000; ++i) {
      const std::uint64_t at = prng.below(count);
      model[at] = prng() & mask;
      set_refcount_entry(block.data(), at, order, model[at]);
    }
    for (std::uint64_t at = 0; at < count; ++at) ASSERT_EQ(refcount_entry(block.data(), at, order), model[at]);
  }
}

}  // namespace
}  // namespace tidemark::qcow2
