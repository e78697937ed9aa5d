#include "format/qcow2/layout/types.hpp"

#include <gtest/gtest.h>

#include "format/qcow2/layout/free_list.hpp"
#include "format/qcow2/layout/l2_entry.hpp"

namespace tidemark::qcow2 {
namespace {

Geometry shape(std::uint32_t cluster_bits, std::uint32_t refcount_order) {
  Geometry g;
  g.cluster_bits = cluster_bits;
  g.refcount_order = refcount_order;
  return g;
}
Geometry with_cluster_bits(std::uint32_t bits) { return shape(bits, 4); }

TEST(Geometry, CountsAsTheFormatDoes) {
  const Geometry usual;
  EXPECT_EQ(usual.l2_span(), 512 * MiB);
  EXPECT_EQ(usual.slice_span(), 32 * MiB);
  EXPECT_EQ(usual.block_entries(), 32768u);
  EXPECT_EQ(usual.refcount_max(), 65535u);
  EXPECT_EQ(shape(9, 6).block_entries(), 64u);
  EXPECT_EQ(shape(9, 6).refcount_max(), ~std::uint64_t{0});
  EXPECT_EQ(shape(9, 0).refcount_max(), 1u);
  EXPECT_EQ(with_cluster_bits(9).slice_size(), 512u);
}

L2Entry decoded(std::uint64_t word) { return L2Entry::decode(Geometry{}, word, 0); }
constexpr std::uint64_t copied = L2Entry::copied_flag;

TEST(L2Entry, TellsItsKinds) {
  EXPECT_FALSE(L2Entry().has_cluster());
  EXPECT_EQ(L2Entry().mapping(0), Mapping::below);
  EXPECT_TRUE(decoded(65536 | copied).owned());
  EXPECT_FALSE(decoded(65536).owned());
  EXPECT_EQ(decoded(65536).mapping(0), Mapping::data);
  EXPECT_EQ(decoded(1).mapping(0), Mapping::zero);
  EXPECT_EQ(decoded(65536 | copied | 1).mapping(0), Mapping::zero_allocated);
  // Bit 0 is part of a compressed cluster's offset.
  EXPECT_EQ(decoded(L2Entry::compressed_flag | 1).mapping(0), Mapping::compressed);
}

TEST(L2Entry, IsWrittenAsItWasRead) {
  const Geometry g;
  for (const std::uint64_t word : {std::uint64_t{0}, std::uint64_t{1}, 65536 | copied, 65536 | copied | 1, std::uint64_t{131072},
                                   L2Entry::compressed_flag | 12345})
    EXPECT_EQ(decoded(word).word(g), word);
  Geometry extended;
  extended.extended_l2 = true;
  const std::uint64_t bitmap = std::uint64_t{0xf0} << 32 | 0x0f;
  EXPECT_EQ(L2Entry::decode(extended, 65536 | copied, bitmap).bitmap(), bitmap);
  EXPECT_EQ(L2Entry::decode(extended, 65536 | copied, bitmap).word(extended), 65536 | copied);
}

TEST(L2Entry, HasAStateForEachSubcluster) {
  Geometry g;
  g.extended_l2 = true;
  EXPECT_EQ(g.subcluster_size(), 2048u);
  EXPECT_EQ(g.subcluster_of(65536 + 4096), 2u);
  const L2Entry entry = L2Entry::decode(g, 65536 | copied, std::uint64_t{0x80000010} << 32 | 0x0f);
  EXPECT_EQ(entry.mapping(0), Mapping::data);
  EXPECT_EQ(entry.alike_until(0, g), 4u);
  EXPECT_EQ(entry.mapping(4), Mapping::zero_allocated);
  EXPECT_EQ(entry.mapping(5), Mapping::below);
  EXPECT_EQ(entry.alike_until(5, g), 31u);
  EXPECT_EQ(entry.mapping(31), Mapping::zero_allocated);
  EXPECT_EQ(entry.alike_until(31, g), 32u);
  EXPECT_TRUE(entry.well_formed());
  EXPECT_FALSE(L2Entry::decode(g, 65536, std::uint64_t{1} << 32 | 1).well_formed());
  EXPECT_FALSE(L2Entry::decode(g, 0, 1).well_formed());
  EXPECT_EQ(entry.with_zeroes(subcluster_range(0, 32)), L2Entry::of_data({65536}, 0, ~0u));
}

TEST(L2Entry, MayBeTheFirstClusterOfADataFile) {
  Geometry g;
  EXPECT_FALSE(L2Entry::decode(g, copied, 0).has_cluster());
  g.external_data = true;
  EXPECT_TRUE(L2Entry::decode(g, copied, 0).owned());
  EXPECT_FALSE(L2Entry::decode(g, 0, 0).has_cluster());
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

constexpr DiscardCause cause = DiscardCause::request;

TEST(FreeList, WaitsForDurabilityAndForRequests) {
  ExtentPins pins;
  FreeList frees(pins);
  const HostRun run{{7}, 2};
  frees.add(run, cause);
  EXPECT_FALSE(frees.next(99));
  frees.take();
  frees.settle(false);                   // the round failed
  EXPECT_FALSE(frees.next(99));
  EXPECT_TRUE(frees.pending());
  {
    const ExtentPins::Guard reader(pins);
    frees.take();
    frees.settle(true);
    EXPECT_FALSE(frees.next(99));          // it may still be read
    const ExtentPins::Guard later(pins);
    EXPECT_FALSE(frees.pending());
  }
  EXPECT_EQ(frees.next(99), (FreeList::Freed{run, cause}));
  EXPECT_TRUE(frees.empty());
}

TEST(FreeList, ALaterRequestDoesNotHoldItUp) {
  ExtentPins pins;
  FreeList frees(pins);
  const HostRun run{{7}, 1};
  frees.add(run, cause);
  frees.take();
  frees.settle(true);
  const ExtentPins::Guard later(pins);
  EXPECT_EQ(frees.next(99), (FreeList::Freed{run, cause}));
}

TEST(FreeList, IsTakenInParts) {
  ExtentPins pins;
  FreeList frees(pins);
  frees.add({{5}, 7}, cause);
  EXPECT_FALSE(frees.much(8));
  EXPECT_TRUE(frees.much(7));
  frees.take();
  frees.settle(true);
  EXPECT_TRUE(frees.any_reusable());
  EXPECT_EQ(frees.next(3), (FreeList::Freed{{{5}, 3}, cause}));
  EXPECT_EQ(frees.next(3), (FreeList::Freed{{{8}, 3}, cause}));
  EXPECT_EQ(frees.next(3), (FreeList::Freed{{{11}, 1}, cause}));
  EXPECT_FALSE(frees.any_reusable());
}

TEST(FreeList, KeepsEachReference) {
  ExtentPins pins;
  FreeList frees(pins);
  const HostRun one{{7}, 1}, next{{8}, 1};
  frees.add(one, cause);
  frees.add(next, cause);                       // adjacent: one run
  frees.add(next, cause);
  frees.take();
  frees.settle(true);
  EXPECT_EQ(frees.next(99), (FreeList::Freed{next, cause}));
  EXPECT_EQ(frees.next(99), (FreeList::Freed{{{7}, 2}, cause}));
  EXPECT_FALSE(frees.next(99));
}

}  // namespace
}  // namespace tidemark::qcow2
