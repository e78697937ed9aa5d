#include "format/qcow2/types.hpp"

#include <gtest/gtest.h>

#include "format/qcow2/free_list.hpp"

namespace tidemark::qcow2 {
namespace {

Geometry with_cluster_bits(std::uint32_t bits) { return {3, bits, 4}; }

TEST(Geometry, CountsAsTheFormatDoes) {
  const Geometry usual;
  EXPECT_EQ(usual.l2_span(), 512 * MiB);
  EXPECT_EQ(usual.slice_span(), 32 * MiB);
  EXPECT_EQ(usual.block_entries(), 32768u);
  EXPECT_EQ(usual.refcount_max(), 65535u);
  EXPECT_EQ((Geometry{3, 9, 6}).block_entries(), 64u);
  EXPECT_EQ((Geometry{3, 9, 6}).refcount_max(), ~std::uint64_t{0});
  EXPECT_EQ((Geometry{3, 9, 0}).refcount_max(), 1u);
  EXPECT_EQ(with_cluster_bits(9).slice_size(), 512u);
}

TEST(L2Entry, TellsItsKinds) {
  EXPECT_FALSE(L2Entry().has_cluster());
  EXPECT_TRUE(L2Entry::of_data({65536}).owned());
  EXPECT_FALSE(L2Entry(65536).owned());
  EXPECT_TRUE(L2Entry::of_zeroes().zero());
  EXPECT_FALSE(L2Entry::of_zeroes().has_cluster());
  EXPECT_TRUE(L2Entry::of_data({65536}).with_zero().zero());
  EXPECT_EQ(L2Entry::of_data({65536}).with_zero().without_zero(), L2Entry::of_data({65536}));
  // Bit 0 is part of a compressed cluster's offset.
  EXPECT_FALSE(L2Entry(L2Entry::compressed_flag | 1).zero());
}

TEST(CompressedPlace, IsWhatItsEntrySays) {
  for (std::uint32_t bits = 9; bits <= 21; ++bits) {
    const Geometry g = with_cluster_bits(bits);
    for (const std::uint64_t at : {1000u, 512u * 7, 100001u, 511u})
      for (const std::uint64_t length : {std::uint64_t{1}, std::uint64_t{300}, g.cluster_size()}) {
        const CompressedPlace stored{{at}, length};
        const CompressedPlace found = CompressedPlace::of(stored.entry(g), g);
        EXPECT_EQ(found.at, stored.at);
        // Up to the end of the last sector: in the same clusters.
        EXPECT_GE(found.length, length);
        EXPECT_LT(found.length, length + 512);
        EXPECT_EQ(found.clusters(g), stored.clusters(g));
      }
  }
}

TEST(FreeList, WaitsForDurabilityAndForRequests) {
  ExtentPins pins;
  FreeList frees(pins);
  const HostRun run{{7}, 2};
  frees.add(run);
  EXPECT_FALSE(frees.next());
  frees.take();
  frees.settle(false);                   // the round failed
  EXPECT_FALSE(frees.next());
  EXPECT_TRUE(frees.pending());
  {
    const ExtentPins::Guard reader(pins);
    frees.take();
    frees.settle(true);
    EXPECT_FALSE(frees.next());          // it may still be read
    const ExtentPins::Guard later(pins);
    EXPECT_FALSE(frees.pending());
  }
  EXPECT_EQ(frees.next(), run);
  EXPECT_TRUE(frees.empty());
}

TEST(FreeList, ALaterRequestDoesNotHoldItUp) {
  ExtentPins pins;
  FreeList frees(pins);
  const HostRun run{{7}, 1};
  frees.add(run);
  frees.take();
  frees.settle(true);
  const ExtentPins::Guard later(pins);
  EXPECT_EQ(frees.next(), run);
}

TEST(FreeList, KeepsEachReference) {
  ExtentPins pins;
  FreeList frees(pins);
  const HostRun one{{7}, 1}, next{{8}, 1};
  frees.add(one);
  frees.add(next);                       // adjacent: one run
  frees.add(next);
  frees.take();
  frees.settle(true);
  EXPECT_EQ(frees.next(), next);
  EXPECT_EQ(frees.next(), (HostRun{{7}, 2}));
  EXPECT_FALSE(frees.next());
}

}  // namespace
}  // namespace tidemark::qcow2
