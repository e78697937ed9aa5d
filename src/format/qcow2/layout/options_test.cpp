#include <gtest/gtest.h>

#include "format/qcow2/layout/cache_sizes.hpp"
#include "format/qcow2/layout/overlap.hpp"

namespace tidemark::qcow2 {
namespace {

TEST(CacheSizes, AreWhatTheOptionsSayTogether) {
  const Geometry g;
  const auto sizes = [&](CacheOptions options) {
    const auto found = cache_sizes(options, g);
    return found ? std::to_string(found->l2 / KiB) + " " + std::to_string(found->refcount / KiB) : found.error().message();
  };
  EXPECT_EQ(sizes({}), "32768 1024");
  EXPECT_EQ(sizes({{}, 4 * MiB, {}}), "4096 1024");
  EXPECT_EQ(sizes({{}, {}, 256 * KiB}), "32768 256");
  EXPECT_EQ(sizes({8 * MiB, {}, {}}), "8176 16");
  EXPECT_EQ(sizes({8 * MiB, 6 * MiB, {}}), "6144 2048");
  EXPECT_EQ(sizes({8 * MiB, {}, 1 * MiB}), "7168 1024");
  EXPECT_EQ(sizes({16 * KiB, {}, {}}), "8 8");
  EXPECT_EQ(sizes({8 * MiB, 9 * MiB, {}}), "l2-cache-size may not exceed cache-size");
  EXPECT_EQ(sizes({8 * MiB, {}, 9 * MiB}), "refcount-cache-size may not exceed cache-size");
  EXPECT_EQ(sizes({8 * MiB, 1 * MiB, 1 * MiB}), "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
}

TEST(OverlapChecks, GrowWithTheirTemplates) {
  EXPECT_TRUE(has(constant_overlap_checks, Metadata::main_header));
  EXPECT_FALSE(has(constant_overlap_checks, Metadata::active_l2));
  EXPECT_TRUE(has(cached_overlap_checks, Metadata::active_l2));
  EXPECT_FALSE(has(cached_overlap_checks, Metadata::inactive_l2));
  EXPECT_TRUE(has(all_overlap_checks, Metadata::inactive_l2));
  EXPECT_EQ(all_overlap_checks & constant_overlap_checks, constant_overlap_checks);
}

}  // namespace
}  // namespace tidemark::qcow2
