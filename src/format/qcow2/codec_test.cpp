#include "format/qcow2/codec.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "base/random.hpp"
#include "format/qcow2/refcount_slice.hpp"

namespace tidemark::qcow2 {
namespace {

class Codec : public ::testing::TestWithParam<CompressionType> {};

TEST_P(Codec, GivesBackWhatItTook) {
  Prng prng(1);
  std::vector<std::byte> cluster(64 * KiB), packed(64 * KiB), back(64 * KiB);
  for (std::size_t i = 0; i < cluster.size(); ++i) cluster[i] = static_cast<std::byte>(prng.below(4) * (i % 7));
  const std::size_t length = compress(GetParam(), cluster, packed);
  ASSERT_GT(length, 0u);
  ASSERT_LT(length, cluster.size());
  // What follows the data in its last sector belongs to others.
  for (std::size_t i = length; i < packed.size(); ++i) packed[i] = static_cast<std::byte>(prng());
  EXPECT_TRUE(decompress(GetParam(), packed, back));
  EXPECT_EQ(back, cluster);
}

TEST_P(Codec, SaysWhenItDoesNotFit) {
  Prng prng(2);
  std::vector<std::byte> cluster(4096), packed(4095);
  for (auto& b : cluster) b = static_cast<std::byte>(prng());
  EXPECT_EQ(compress(GetParam(), cluster, packed), 0u);
}

TEST_P(Codec, RefusesWhatIsCutOrDamaged) {
  std::vector<std::byte> cluster(4096, std::byte{1}), packed(4096), back(4096);
  for (std::size_t i = 0; i < cluster.size(); ++i) cluster[i] = static_cast<std::byte>(i * i >> 4);
  const std::size_t length = compress(GetParam(), cluster, packed);
  ASSERT_GT(length, 16u);
  EXPECT_FALSE(decompress(GetParam(), Bytes(packed).first(length / 2), back));
  EXPECT_FALSE(decompress(GetParam(), {}, back));
  std::vector<std::byte> longer(8192);
  EXPECT_FALSE(decompress(GetParam(), Bytes(packed).first(length), longer));
  const std::vector<std::byte> noise(512, std::byte{0x8f});
  EXPECT_FALSE(decompress(GetParam(), noise, back));
}

INSTANTIATE_TEST_SUITE_P(Types, Codec, ::testing::Values(CompressionType::zlib, CompressionType::zstd));

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
