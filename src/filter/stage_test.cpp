// The stage against a plain map: what was put into it is found, in memory or spilled, until forgotten.
#include "filter/stage.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/random.hpp"
#include "io/sim/process.hpp"
#include "task/finally.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

using Unit = std::vector<std::byte>;

class StageTest : public testing::Test {
 protected:
  void make(std::uint64_t seed, StageOptions options) {
    random = Prng(seed);
    process.reset();
    world.emplace(seed);
    process.emplace(*world);
    stage = std::make_unique<Stage>(process->reactor(), std::move(options));
    model.clear();
  }
  void run(std::function<Task<>()> body) {
    const auto close = [&]() -> Task<> { return stage->close(); };
    const Result<> done = process->run(finally(body(), close));
    EXPECT_TRUE(done.ok()) << done.error().message();
    stage.reset();
  }
  static StageOptions small() {
    StageOptions options;
    options.memory = 4 * MiB;
    options.budget = 24 * MiB;
    options.directory = "/";
    return options;
  }
  Unit content() {
    Unit unit(Stage::unit);
    if (random.chance(1, 6)) return unit;
    for (std::size_t i = 0; i < unit.size(); i += 64) unit[i] = static_cast<std::byte>(random());
    unit[0] |= std::byte{1};
    return unit;
  }

  // As a guest does it: room first, then what was read.
  Task<> add_some(std::uint64_t limit) {
    const std::uint64_t count = 1 + random.below(stage->room_max());
    Stage::Room room = co_await stage->room_for(count);
    const std::vector<iovec> memory = room.memory(count * Stage::unit);
    std::vector<Unit> units;
    for (std::uint64_t i = 0; i < count; ++i) units.push_back(content());
    std::size_t at = 0;
    for (const iovec& piece : memory)
      for (std::size_t done = 0; done < piece.iov_len; done += Stage::unit, ++at)
        std::memcpy(static_cast<std::byte*>(piece.iov_base) + done, units[at].data(), Stage::unit);
    for (std::size_t i = 0; i < count; ++i) {
      const std::uint64_t offset = random.below(limit) * Stage::unit;
      if (stage->has(offset)) continue;  // its room is given back
      stage->add(offset, room, i);
      model.emplace(offset, units[i]);
    }
  }
  Task<> fetch_some(std::uint64_t limit) {
    const Range range{random.below(limit) * Stage::unit, (1 + random.below(300)) * Stage::unit};
    std::vector<std::byte> found(range.length, std::byte{0xee});
    std::vector<std::byte> expected = found;
    for (auto it = model.lower_bound(range.offset); it != model.end() && it->first < range.end(); ++it)
      std::memcpy(expected.data() + (it->first - range.offset), it->second.data(), Stage::unit);
    co_await stage->fetch(range, found);
    EXPECT_TRUE(found == expected);
  }
  void forget_some(std::uint64_t limit) {
    const Range range{random.below(limit) * Stage::unit, random.below(600) * Stage::unit};
    stage->forget(range);
    model.erase(model.lower_bound(range.offset), model.lower_bound(range.end()));
  }
  void check_missing(std::uint64_t limit) {
    const Range range{random.below(limit) * Stage::unit, (1 + random.below(64)) * Stage::unit};
    std::uint64_t first = range.offset;
    while (first < range.end() && model.contains(first)) first += Stage::unit;
    std::uint64_t end = first;
    while (end < range.end() && !model.contains(end)) end += Stage::unit;
    const auto missing = stage->next_missing(range);
    ASSERT_EQ(missing.has_value(), first < range.end());
    const Range expected{first, end - first};
    EXPECT_EQ(missing.value_or(expected), expected);
  }

  Task<> wait_for_room() {
    outcome.clear();
    const auto room = co_await stage->room_for(4).result();
    outcome = room ? "room" : room.error().message();
  }

  Task<> take_room(std::uint64_t units, std::string name) {
    const auto room = co_await stage->room_for(units).result();
    outcome += room ? name : "-";
  }

  Prng random{1};
  std::string outcome;
  std::optional<SimWorld> world;
  std::optional<SimProcess> process;
  std::unique_ptr<Stage> stage;
  std::map<std::uint64_t, Unit> model;
};

TEST_F(StageTest, KeepsWhatWasAdded) {
  std::uint64_t spilled = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    make(seed, small());
    const std::uint64_t limit = 1000 + random.below(30'000);
    run([&]() -> Task<> {
      for (int round = 0; round < 150; ++round) {
        const auto kind = random.below(8);
        const bool room = stage->usage().staged + stage->room_max() * Stage::unit <= 24 * MiB;
        if (kind < 3 && room) co_await add_some(limit);
        else if (kind < 5) co_await fetch_some(limit);
        else if (kind == 5) forget_some(limit);
        else if (kind == 6) check_missing(limit);
        else co_await process->reactor().sleep(Duration(random.below(3'000'000)));
        spilled = std::max(spilled, stage->usage().spilled);
      }
      const auto zeroes = static_cast<std::uint64_t>(std::ranges::count_if(model, [](const auto& one) { return is_zero(one.second); }));
      EXPECT_EQ(stage->usage().staged, (model.size() - zeroes + zeroes / Stage::zeroes_a_unit) * Stage::unit);
      stage->forget({0, limit * Stage::unit});
      EXPECT_EQ(stage->usage().staged, 0u);
      EXPECT_EQ(stage->usage().spilled, 0u);
    });
  }
  EXPECT_GT(spilled, 1 * MiB);
}

TEST_F(StageTest, ZeroesAreBoundedToo) {
  make(1, small());
  run([&]() -> Task<> {
    const std::uint64_t units = small().budget / Stage::unit;
    std::uint64_t added = 0;
    for (bool full = false; !full && added <= units * Stage::zeroes_a_unit;) {
      auto room = co_await stage->room_for(stage->room_max()).result();
      full = !room;
      if (full) continue;
      for (const iovec& piece : room->memory(stage->room_max() * Stage::unit)) std::memset(piece.iov_base, 0, piece.iov_len);
      for (std::size_t i = 0; i < stage->room_max(); ++i) stage->add(added++ * Stage::unit, *room, i);
    }
    EXPECT_EQ(added, (units - stage->room_max()) * Stage::zeroes_a_unit + stage->room_max());
    stage->forget({0, added * Stage::unit});
    EXPECT_EQ(stage->usage().staged, 0u);
  });
}

TEST_F(StageTest, BeyondItsLimitsForWhatWouldBeLost) {
  StageOptions options = small();
  options.spill = false;
  options.directory.clear();
  make(9, options);
  run([&]() -> Task<> {
    std::vector<std::byte> data(6 * MiB + 512, std::byte{7});
    stage->add(0, Bytes(data));
    EXPECT_GT(stage->usage().staged, 6 * MiB);
    std::vector<std::byte> found(data.size());
    const Range all{0, found.size()};
    co_await stage->fetch(all, found);
    EXPECT_TRUE(found == data);
    const auto room = co_await stage->room_for(1).result();
    EXPECT_FALSE(room.ok());
    EXPECT_TRUE(stage->presses());
  });
}

TEST_F(StageTest, WhoWaitsIsLetGo) {
  StageOptions options = small();
  options.on_full = OnStagingFull::throttle;
  options.spill = false;
  options.directory.clear();
  make(10, options);
  run([&]() -> Task<> {
    const std::vector<std::byte> data(4 * MiB, std::byte{7});
    stage->add(0, Bytes(data));
    const Error over(Errc::cancelled, "over");
    const auto body = [&](TaskGroup& group) -> Task<> {
      group.spawn(wait_for_room());
      EXPECT_TRUE(stage->throttles());
      EXPECT_EQ(outcome, "");
      stage->forget(Range{0, 1 * MiB});
      co_await group.join();
      EXPECT_EQ(outcome, "room");
      EXPECT_FALSE(stage->throttles());
      stage->add(0, Bytes(data).first(1 * MiB));
      group.spawn(wait_for_room());
      EXPECT_TRUE(stage->throttles());
      stage->end(over);
      co_await group.join();
      EXPECT_EQ(outcome, "over");
    };
    co_await with_group(process->reactor(), body);
  });
}

// Small requests that come later do not take what a large one waits for.
TEST_F(StageTest, RoomIsGivenInOrderOfArrival) {
  StageOptions options = small();
  options.on_full = OnStagingFull::throttle;
  options.spill = false;
  options.directory.clear();
  make(11, options);
  run([&]() -> Task<> {
    const std::vector<std::byte> data(4 * MiB, std::byte{7});
    stage->add(0, Bytes(data));
    const Error over(Errc::cancelled, "over");
    const auto body = [&](TaskGroup& group) -> Task<> {
      group.spawn(take_room(stage->room_max(), "large"));
      group.spawn(take_room(1, " small"));
      stage->forget(Range{0, 512 * KiB});
      co_await process->reactor().sleep(Duration(1'000'000));
      EXPECT_EQ(outcome, "");
      EXPECT_TRUE(stage->throttles());
      stage->forget(Range{512 * KiB, 512 * KiB});
      co_await group.join();
      EXPECT_EQ(outcome, "large small");
      stage->add(0, Bytes(data).first(1 * MiB));
      group.spawn(take_room(stage->room_max(), ""));
      group.spawn(take_room(1, ""));
      stage->end(over);
      co_await group.join();
      EXPECT_EQ(outcome, "large small--");
      EXPECT_FALSE(stage->throttles());
    };
    co_await with_group(process->reactor(), body);
  });
}

TEST_F(StageTest, SpillingMakesRoomForWhatMayBeAskedFor) {
  for (const std::uint64_t memory : {2 * Stage::unit, 7 * Stage::unit, 48 * Stage::unit, 1 * MiB}) {
    StageOptions options = small();
    options.memory = memory;
    make(12, options);
    run([&]() -> Task<> {
      const std::uint64_t units = options.budget / Stage::unit - stage->room_max();
      for (std::uint64_t at = 0; at < units;) {
        const std::uint64_t count = 1 + at % stage->room_max();
        Stage::Room room = co_await stage->room_for(count);
        for (const iovec& piece : room.memory(count * Stage::unit)) std::memset(piece.iov_base, 7, piece.iov_len);
        for (std::size_t i = 0; i < count; ++i, ++at) stage->add(at * Stage::unit, room, i);
      }
      EXPECT_GE(stage->usage().staged, units * Stage::unit);
    });
  }
}

}  // namespace
}  // namespace tidemark
