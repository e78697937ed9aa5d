// The fixture of the block drivers' contract: one disk in one world, and a plain model of it.
#pragma once

#include <gtest/gtest.h>

#include "base/random.hpp"
#include "io/aligned.hpp"
#include "task/group.hpp"
#include "tests/contract/block/disks.hpp"

namespace tidemark::contract {

inline constexpr std::uint64_t disk_size = 4 * MiB;

struct ContractCase {
  DiskWorldCase world;
  DiskCase disk;
};
std::vector<ContractCase> cases(bool stores_only);
std::string case_name(const testing::TestParamInfo<ContractCase>& about);

class DiskContract : public testing::TestWithParam<ContractCase> {
 protected:
  using P = Permissions;

  DiskContract();
  ~DiskContract() override;
  void SetUp() override;

  // Runs the coroutine that `body` returns; it must end well.
  template <class Body>
  void check(Body body) {
    const Result<> outcome = reactor.run(body());
    EXPECT_TRUE(outcome) << outcome.error().message();
  }
  void open(bool create);
  void close();
  bool resizable() const { return GetParam().disk.resizable; }

  Range random_range(std::uint64_t length_max, Range within = {0, disk_size});
  // What is written from and read into: memory at any address, cut into any pieces.
  struct Memory {
    AlignedBuffer bytes;
    std::vector<iovec> pieces;
    Buffers buffers() const { return Buffers(pieces); }
  };
  Memory random_memory(std::uint64_t size);

  // Does it to the disk and to the model.
  Task<> write(Range range, WriteFlags flags = WriteFlags::none);
  Task<> write_zeroes(Range range, WriteFlags flags);
  // Each byte is as before, or zero: the model takes over what it is.
  Task<> discard(Range range);
  Task<> expect_read(Range range);
  Task<> expect_all();
  Task<> random_request(std::uint64_t length_max, Range within = {0, disk_size});

  std::unique_ptr<DiskWorld> world = GetParam().world.make(GetParam().world.host);
  Reactor reactor{world->backend()};
  Graph graph{reactor};
  DiskPlace place{graph, *world, {}, {}};
  BlockNode* node = nullptr;
  std::unique_ptr<Edge> edge;
  std::vector<std::byte> model = std::vector<std::byte>(disk_size);
  Prng prng{11};
};

}  // namespace tidemark::contract
