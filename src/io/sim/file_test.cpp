// What a crash leaves of a file: each promise of file.hpp, and that what may happen does happen.
#include "io/sim/file.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace tidemark {
namespace {

constexpr std::uint64_t sector = 512;
constexpr int many_seeds = 400;

SimChange write(std::uint64_t offset, std::uint64_t length, char value) {
  return {SimChange::Kind::write, {offset, length}, std::make_shared<std::vector<std::byte>>(length, static_cast<std::byte>(value))};
}
SimChange resize(std::uint64_t size) { return {SimChange::Kind::resize, {size, 0}, {}}; }
SimChange punch(std::uint64_t offset, std::uint64_t length) {
  return {SimChange::Kind::punch, {offset, length}, {}};
}

std::string text_of(const SparseContent& content) {
  std::string text(content.size(), '?');
  content.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// A character a sector: 'A' when all its bytes are, '!' when it is mixed.
std::string sectors_of(const SparseContent& content) {
  const std::string text = text_of(content);
  std::string sectors;
  for (std::size_t at = 0; at < text.size(); at += sector) {
    const std::string one = text.substr(at, sector);
    sectors += one.find_first_not_of(one[0]) == one.npos ? one[0] ? one[0] : '0' : '!';
  }
  return sectors;
}

// What is left over many seeds, of files that `prepare` has written.
template <class Prepare>
std::set<std::string> outcomes(Prepare prepare, std::uint32_t tear = sector) {
  std::set<std::string> found;
  for (int seed = 0; seed < many_seeds; ++seed) {
    SimFile file(nullptr);
    prepare(file);
    Prng prng(static_cast<std::uint64_t>(seed));
    file.crash(prng, tear);
    EXPECT_TRUE(file.clean());
    EXPECT_EQ(text_of(file.visible()), text_of(file.durable()));
    found.insert(sectors_of(file.visible()));
  }
  return found;
}

void write_and_sync(SimFile& file, SimChange change) {
  file.change(std::move(change));
  file.sync(file.changes_made());
}

using Outcomes = std::set<std::string>;

TEST(SimFile, WhatWasSyncedIsThere) {
  const Outcomes expected = {"AAAA"};
  EXPECT_EQ(outcomes([](SimFile& f) { write_and_sync(f, write(0, 4 * sector, 'A')); }), expected);
}

TEST(SimFile, WhatWasNotIsKeptLostOrTornAtSectors) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 3 * sector, 'A'));
    f.change(write(0, 3 * sector, 'B'));
  });
  const Outcomes expected = {"AAA", "BBB", "BAA", "ABA", "AAB", "BBA", "BAB", "ABB"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, LargerSectorsAreNotTorn) {
  const Outcomes found = outcomes(
      [](SimFile& f) {
        write_and_sync(f, write(0, 16 * sector, 'A'));
        f.change(write(0, 16 * sector, 'B'));
      },
      4096);
  const std::string a(8, 'A'), b(8, 'B');
  const Outcomes expected = {a + a, a + b, b + a, b + b};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, WritesAreReordered) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 2 * sector, 'A'));
    f.change(write(0, sector, 'B'));
    f.change(write(sector, sector, 'C'));
  });
  const Outcomes expected = {"AA", "BA", "AC", "BC"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, ASectorHasOneOfItsVersions) {
  const Outcomes found = outcomes([](SimFile& f) {
    f.change(write(0, sector, 'A'));
    write_and_sync(f, write(0, sector, 'B'));
    f.change(write(0, sector, 'C'));
    f.change(write(0, sector, 'D'));
  });
  const Outcomes expected = {"B", "C", "D"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, ASectorIsWrittenAsAWhole) {
  Outcomes found;
  for (int seed = 0; seed < many_seeds; ++seed) {
    SimFile file(nullptr);
    write_and_sync(file, write(0, sector, '.'));
    file.change(write(0, 1, 'A'));
    file.change(write(1, 1, 'B'));
    Prng prng(static_cast<std::uint64_t>(seed));
    file.crash(prng, sector);
    found.insert(text_of(file.visible()).substr(0, 2));
  }
  const Outcomes expected = {"..", "A.", "AB"};     // never ".B": the sector had A when it got B
  EXPECT_EQ(found, expected);
}

TEST(SimFile, ASyncCoversWhatWasBeforeIt) {
  const Outcomes found = outcomes([](SimFile& f) {
    f.change(write(0, sector, 'A'));
    const std::uint64_t begun = f.changes_made();
    f.change(write(0, sector, 'B'));
    f.sync(begun);
  });
  const Outcomes expected = {"A", "B"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, ADurableWriteIsThereAndNothingElse) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 2 * sector, 'A'));
    f.change(write(0, 2 * sector, 'B'));
    f.change(write(0, sector, 'C'), true);
    EXPECT_EQ(sectors_of(f.durable()), "CA");
  });
  const Outcomes expected = {"CA", "CB"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, ADurableWriteTakesTheSizeItNeeds) {
  const Outcomes found = outcomes([](SimFile& f) { f.change(write(sector, sector, 'A'), true); });
  const Outcomes expected = {"0A"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, ADurableWriteBehindOneThatIsNotTakesItToo) {
  const Outcomes found = outcomes([](SimFile& f) {
    f.change(write(0, sector, 'A'));
    f.change(write(sector, sector, 'B'), true);
  });
  const Outcomes expected = {"0B", "AB"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, NothingLurksBeyondTheSizeThatIsLeft) {
  for (int seed = 0; seed < many_seeds; ++seed) {
    SimFile file(nullptr);
    write_and_sync(file, write(0, sector, 'A'));
    file.change(write(sector, 20 * sector, 'B'));
    Prng prng(static_cast<std::uint64_t>(seed));
    file.crash(prng, sector);
    if (file.visible().size() != sector) continue;
    file.change(resize(22 * sector));
    EXPECT_EQ(sectors_of(file.visible()), "A" + std::string(21, '0'));
  }
}

TEST(SimFile, TheSizeIsOneThatItHadWhateverTheData) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, sector, 'A'));
    f.change(write(sector, sector, 'B'));
    f.change(write(2 * sector, sector, 'C'));
  });
  const Outcomes expected = {"A", "AB", "A0", "ABC", "AB0", "A0C", "A00"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, AShrinkingMayBeUndone) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 2 * sector, 'A'));
    f.change(resize(sector));
  });
  const Outcomes expected = {"A", "AA"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, WhatWasCutOffDoesNotComeBackUnderALaterSize) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 2 * sector, 'A'));
    f.change(resize(0));
    f.change(resize(3 * sector));
  });
  const Outcomes expected = {"AA", "", "000"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, HolesArePunchedInSectors) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 2 * sector, 'A'));
    f.change(punch(0, 2 * sector));
  });
  const Outcomes expected = {"AA", "0A", "A0", "00"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, AHugePunchCostsTheDataInIt) {
  for (int seed = 0; seed < 50; ++seed) {
    SimFile file(nullptr);
    file.change(resize(16 * TiB));
    write_and_sync(file, write(15 * TiB, 2 * sector, 'A'));
    file.change(punch(0, 16 * TiB));
    Prng prng(static_cast<std::uint64_t>(seed));
    file.crash(prng, sector);
    EXPECT_EQ(file.visible().size(), 16 * TiB);
  }
}

// That the file was cut there before cannot come after it.
TEST(SimFile, ADurableWriteBehindACutIsThere) {
  const Outcomes found = outcomes([](SimFile& f) {
    write_and_sync(f, write(0, 3 * sector, 'A'));
    f.change(resize(sector));
    f.change(resize(3 * sector));
    f.change(write(sector, sector, 'B'), true);
    f.change(write(0, sector, 'C'));
  });
  const Outcomes expected = {"AB0", "CB0"};
  EXPECT_EQ(found, expected);
}

TEST(SimFile, WhatAFailedSyncForgotNoLaterOneMakesDurable) {
  const auto fail = [](std::uint64_t seed, bool again) {
    return [seed, again](SimFile& f) {
      write_and_sync(f, write(0, sector, 'A'));
      f.change(write(0, sector, 'B'));
      Prng prng(seed);
      f.fail_sync(f.changes_made(), prng);
      f.sync(f.changes_made());
      if (again) write_and_sync(f, write(1, 1, 'C'));
      EXPECT_EQ(text_of(f.visible())[0], 'B');     // readers see it all the same
    };
  };
  std::set<Outcomes> found;
  for (std::uint64_t seed = 0; seed < 20; ++seed) found.insert(outcomes(fail(seed, false)));
  const std::set<Outcomes> expected = {{"B"}, {"A", "B"}};
  EXPECT_EQ(found, expected);
  // Written again, the sector goes to the disk as a whole.
  for (std::uint64_t seed = 0; seed < 20; ++seed)
    EXPECT_EQ(outcomes(fail(seed, true)), Outcomes{"!"});
}

TEST(SimFile, SpaceIsCountedThroughACrash) {
  SimSpace space;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    SimFile file(&space);
    file.change(write(0, 8192, 'A'));
    EXPECT_EQ(space.used, 8192u);
    file.sync(1);
    file.change(punch(0, 4096));
    EXPECT_EQ(space.used, 4096u);
    file.change(write(MiB, 4096, 'B'));
    EXPECT_EQ(space.used, 8192u);
    Prng prng(seed);
    file.crash(prng, sector);
    EXPECT_EQ(space.used, file.visible().allocated());
  }
  EXPECT_EQ(space.used, 0u);
}

// The whole model at once: random changes, syncs and durable writes; after the crash every sector must
// have a version it had since it was last durable.
class Oracle {
 public:
  static constexpr std::uint64_t sectors = 12;

  explicit Oracle(std::uint64_t seed) : prng_(seed) {
    versions_.assign(sectors, {std::string(sector, '\0')});
    write_and_sync(file_, resize(sectors * sector));
  }
  void step() {
    const std::uint64_t offset = prng_.below(sectors * sector);
    const std::uint64_t length = 1 + prng_.below(std::min(4 * sector, sectors * sector - offset));
    const auto value = static_cast<char>('A' + prng_.below(26));
    switch (prng_.below(8)) {
      case 0: return sync();
      case 1: return change(punch(offset, length), false);
      case 2: return change(write(offset, length, value), true);
      default: return change(write(offset, length, value), false);
    }
  }
  void crash_and_check() {
    file_.crash(prng_, sector);
    const std::string left = text_of(file_.visible());
    ASSERT_EQ(left.size(), sectors * sector);
    for (std::uint64_t i = 0; i < sectors; ++i) {
      const std::string now = left.substr(i * sector, sector);
      ASSERT_TRUE(std::ranges::find(versions_[i], now) != versions_[i].end()) << "sector " << i;
      versions_[i] = {now};
    }
  }

 private:
  void change(SimChange change, bool durable) {
    const Range range = change.range;
    file_.change(std::move(change), durable);
    const std::string now = text_of(file_.visible());
    for (std::uint64_t i = range.offset / sector; i < div_up(range.end(), sector); ++i) {
      if (durable) versions_[i].clear();
      versions_[i].push_back(now.substr(i * sector, sector));
    }
  }
  void sync() {
    file_.sync(file_.changes_made());
    for (auto& versions : versions_) versions = {versions.back()};
  }

  Prng prng_;
  SimFile file_{nullptr};
  std::vector<std::vector<std::string>> versions_;
};

TEST(SimFile, AnyRunKeepsTheModel) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Oracle oracle(seed);
    for (int crash = 0; crash < 3; ++crash) {
      for (int i = 0; i < 15; ++i) oracle.step();
      ASSERT_NO_FATAL_FAILURE(oracle.crash_and_check()) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace tidemark
