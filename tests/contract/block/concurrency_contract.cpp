// What requests do to each other, and what drain and bitmaps promise while they run.
//
// Two writes of one place: each 512-byte sector ends up as one of them, and no neighbour is lost.
#include "tests/contract/block/contract.hpp"

namespace tidemark::contract {
namespace {

class AnyDiskDrain : public DiskContract {
 protected:
  Task<> requests(int count) {
    for (int i = 0; i < count; ++i) {
      const Range range = random_range(32 * KiB);
      std::vector<std::byte> memory(range.length);
      if (prng.chance(1, 2))
        co_await edge->read(range.offset, Buffers(memory));
      else
        co_await edge->write(range.offset, Buffers(memory));
      ++done;
      co_await reactor.yield();
    }
  }
  Task<> drain_now_and_then() {
    for (int i = 0; i < 6; ++i) {
      co_await reactor.yield();
      const auto guard = co_await graph.drain(*node);
      const int before = done;
      EXPECT_EQ(node->in_flight(), 0u);
      EXPECT_TRUE(node->quiesced());
      for (int turn = 0; turn < 20; ++turn) co_await reactor.yield();
      EXPECT_EQ(node->in_flight(), 0u);
      EXPECT_LE(done, before + static_cast<int>(workers));  // what had ended, and not said so yet
      settled = done;
      for (int turn = 0; turn < 20; ++turn) co_await reactor.yield();
      EXPECT_EQ(done, settled);
    }
  }
  static constexpr std::size_t workers = 8;
  int done = 0, settled = 0;
};

TEST_P(AnyDiskDrain, WaitsForRequestsAndHoldsNewOnes) {
  const auto body = [&](TaskGroup& group) -> Task<> {
    for (std::size_t i = 0; i < workers; ++i) group.spawn(requests(30));
    group.spawn(drain_now_and_then());
    co_await group.join();
  };
  check([&] { return with_group(reactor, body); });
  EXPECT_EQ(done, 30 * static_cast<int>(workers));
}

class DiskConcurrency : public DiskContract {
 protected:
  struct Write {
    Range range;
    std::byte fill;
  };
  Task<> fill(Write write) {
    const std::vector<std::byte> data(write.range.length, write.fill);
    co_await edge->write(write.range.offset, Buffers::of_const(data));
  }
  void run_together(const std::vector<Write>& writes) {
    const auto body = [&](TaskGroup& group) -> Task<> {
      for (const Write& write : writes) group.spawn(fill(write));
      co_await group.join();
    };
    check([&] { return with_group(reactor, body); });
  }
  std::vector<std::byte> read_all() {
    std::vector<std::byte> got(disk_size);
    check([&]() -> Task<> { co_await edge->read(0, Buffers(got)); });
    return got;
  }
};

TEST_P(DiskConcurrency, OverlappingWritesMixNoSector) {
  world->transfer_whole();
  for (int round = 0; round < 4; ++round) {
    std::vector<Write> writes;
    for (unsigned i = 0; i < 24; ++i) {
      const std::uint64_t sector = prng.below(96), sectors = 1 + prng.below(32);
      const Range range{1 * MiB + sector * 512, sectors * 512};
      writes.push_back({range, static_cast<std::byte>(1 + round * 24 + static_cast<int>(i))});
    }
    const auto before = read_all();
    run_together(writes);
    const auto after = read_all();
    for (std::uint64_t at = 0; at < disk_size; at += 512) {
      const Bytes sector = Bytes(after).subspan(at, 512);
      bool touched = false, explained = false;
      for (const Write& write : writes) {
        if (!write.range.contains(at)) continue;
        touched = true;
        explained |= std::count(sector.begin(), sector.end(), write.fill) == 512;
      }
      if (!touched)
        explained =
            std::equal(sector.begin(), sector.end(), before.begin() + static_cast<long>(at));
      ASSERT_TRUE(explained) << "the sector at " << at;
    }
  }
}

// Side by side and touching, at any byte: whoever shares a sector, unit or cluster loses nothing.
TEST_P(DiskConcurrency, NeighboursAreNotLost) {
  for (int round = 0; round < 4; ++round) {
    std::vector<Write> writes;
    std::uint64_t at = prng.below(disk_size / 2);
    for (unsigned i = 0; i < 48; ++i) {
      const std::uint64_t length = 1 + prng.below(i % 4 == 0 ? 20'000 : 700);
      writes.push_back({{at, length}, static_cast<std::byte>(prng())});
      std::fill_n(model.begin() + static_cast<long>(at), length, writes.back().fill);
      at += length;
    }
    run_together(writes);
    check([&]() -> Task<> { co_await expect_all(); });
  }
}

class DiskBitmaps : public DiskContract {
 protected:
  // Each worker has a part of the disk, so that the model knows what the disk holds.
  Task<> requests(Range part) {
    for (int i = 0; i < 12; ++i) co_await random_request(64 * KiB, part);
  }
};

TEST_P(DiskBitmaps, MarkAllThatChanges) {
  constexpr std::uint64_t used = disk_size / 2;
  check([&]() -> Task<> {
    const Range all{0, disk_size};
    co_await write(all);
  });
  for (int round = 0; round < 3; ++round) {
    NodeBitmaps& bitmaps = node->bitmaps();
    const std::uint32_t granularities[] = {512, 4096, 64 * KiB};
    for (const std::uint32_t granularity : granularities)
      ASSERT_TRUE(bitmaps.add(std::to_string(granularity), disk_size, granularity).ok());
    const auto before = model;
    const auto body = [&](TaskGroup& group) -> Task<> {
      for (std::uint64_t at = 0; at < used; at += used / 8) group.spawn(requests({at, used / 8}));
      co_await group.join();
    };
    check([&] { return with_group(reactor, body); });
    for (const auto& bitmap : bitmaps.all()) {
      for (std::uint64_t at = 0; at < disk_size; at += 512) {
        const auto from = static_cast<long>(at);
        const bool same =
            std::equal(model.begin() + from, model.begin() + from + 512, before.begin() + from);
        ASSERT_TRUE(same || bitmap->bits().test(at)) << bitmap->name() << " at " << at;
      }
      EXPECT_FALSE(bitmap->bits().next_dirty(used).has_value());
    }
    while (!bitmaps.empty()) bitmaps.remove(*bitmaps.all().front());
    check([&]() -> Task<> { co_await expect_all(); });
  }
}

INSTANTIATE_TEST_SUITE_P(Block, AnyDiskDrain, testing::ValuesIn(cases(false)), case_name);
INSTANTIATE_TEST_SUITE_P(Block, DiskConcurrency, testing::ValuesIn(cases(true)), case_name);
INSTANTIATE_TEST_SUITE_P(Block, DiskBitmaps, testing::ValuesIn(cases(true)), case_name);

}  // namespace
}  // namespace tidemark::contract
