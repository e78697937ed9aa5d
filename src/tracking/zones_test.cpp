// Zones: what they log ahead stays in proportion, and a sequential writer asks seldom.
#include "tracking/zones.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.hpp"

namespace tidemark::tracking {
namespace {

constexpr std::uint64_t grain = 64 * KiB, disk = 1 * TiB;

TEST(Zones, RandomWritesGetWhatTheyAskFor) {
  Zones zones(0);
  Prng prng(1);
  for (int i = 0; i < 1000; ++i) {
    const Range miss{prng.below(disk / grain) * grain, grain};
    EXPECT_EQ(zones.open(miss, disk, grain).range, miss);
  }
}

TEST(Zones, ASequentialWriterAsksSeldomAndIsSuspectedLittle) {
  Zones zones(0);
  std::uint64_t admitted = 0, asked = 0;
  for (std::uint64_t at = 0; at < 4 * GiB; at += grain) {
    if (at < admitted) continue;
    const Range miss{at, grain};
    const Zones::Zone zone = zones.open(miss, disk, grain);
    admitted = zone.range.end();
    ++asked;
    EXPECT_EQ(zone.range.offset, at);
    EXPECT_LE(admitted, (at + grain) * 5 / 4);
  }
  EXPECT_LT(asked, 200u);
}

// On a small disk random writes often come after one another by chance.
TEST(Zones, RandomWritesOnASmallDiskAreSuspectedLittle) {
  Zones zones(0);
  Prng prng(1);
  std::vector<bool> touched(1024), logged(1024);
  for (int i = 0; i < 400; ++i) {
    const std::uint64_t granule = prng.below(logged.size());
    touched[granule] = true;
    if (logged[granule]) continue;
    const Range miss{granule * grain, grain};
    const Range zone = zones.open(miss, logged.size() * grain, grain).range;
    for (std::uint64_t at = zone.offset; at < zone.end(); at += grain) logged[at / grain] = true;
  }
  const auto suspected = std::count(logged.begin(), logged.end(), true);
  EXPECT_LE(suspected * 2, std::count(touched.begin(), touched.end(), true) * 3);
}

TEST(Zones, ATripwireAsksAhead) {
  Zones zones(0);
  Zones::Zone zone{};
  std::uint64_t at = 0;
  while (zone.tripwire.empty()) {
    const Range miss{at, grain};
    zone = zones.open(miss, disk, grain);
    at = zone.range.end();
  }
  zones.arm(zone.tripwire);
  const auto tripped = zones.trip(zone.tripwire, disk, grain);
  ASSERT_TRUE(tripped);
  EXPECT_EQ(tripped->tripwire, zone.tripwire);
  EXPECT_EQ(tripped->ahead.range.offset, zone.range.end());
  EXPECT_FALSE(zones.trip(zone.tripwire, disk, grain));
}

TEST(Zones, StayOnTheDiskAndInTheBudget) {
  Zones zones(10 * grain);
  std::uint64_t at = 0;
  while (at < 1000 * grain) {
    const Range miss{at, grain};
    at = zones.open(miss, 1000 * grain, grain).range.end();
    EXPECT_LE(zones.excess(), 10 * grain);
  }
  EXPECT_EQ(at, 1000 * grain);
}

}  // namespace
}  // namespace tidemark::tracking
