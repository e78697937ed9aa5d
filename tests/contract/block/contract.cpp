#include "tests/contract/block/contract.hpp"

namespace tidemark::contract {

std::vector<ContractCase> cases(bool stores_only) {
  std::vector<ContractCase> all;
  for (const DiskWorldCase& world : disk_worlds())
    for (const DiskCase& disk : disks())
      if (!(world.in_memory && disk.wants_disk) && (disk.stores || !stores_only))
        all.push_back({world, disk});
  return all;
}

std::string case_name(const testing::TestParamInfo<ContractCase>& about) {
  return about.param.disk.name + "_on_" + about.param.world.name;
}

DiskContract::DiskContract() = default;

void DiskContract::SetUp() {
  if (const std::uint32_t sector = GetParam().disk.sector) {
    const auto device = world->device(disk_size, sector);
    if (!device) GTEST_SKIP() << device.error().message();
    place.device = *device;
  }
  open(true);
}

DiskContract::~DiskContract() { close(); }

void DiskContract::open(bool create) {
  const Result<BlockNode*> opened = reactor.run(GetParam().disk.open(place, disk_size, create));
  ASSERT_TRUE(opened.ok()) << opened.error().message();
  node = *opened;
  const P::Set uses = P::consistent_read | P::write | (resizable() ? P::resize : P::none);
  auto attached = Edge::attach(*node, Role::root, {uses, P::all}, "contract");
  ASSERT_TRUE(attached.ok()) << attached.error().message();
  edge = *std::move(attached);
}

void DiskContract::close() {
  edge.reset();
  const Result<> closed = reactor.run(graph.close_all());
  EXPECT_TRUE(closed) << closed.error().message();
  if (!place.beside) return;
  const Result<> stopped = reactor.run(place.beside->stop());
  EXPECT_TRUE(stopped) << stopped.error().message();
  place.beside.reset();
}

Range DiskContract::random_range(std::uint64_t length_max, Range within) {
  constexpr std::uint64_t units[] = {1, 1, 512, 512, 4096, 64 * KiB};
  const std::uint64_t unit = units[prng.below(std::size(units))];
  const std::uint64_t offset = within.offset + align_down(prng.below(within.length), unit);
  const std::uint64_t most = std::min(length_max, within.end() - offset);
  const std::uint64_t length = align_up(1 + prng.below(most), unit);
  return {offset, std::min(length, within.end() - offset)};
}

DiskContract::Memory DiskContract::random_memory(std::uint64_t size) {
  const std::uint64_t skip = prng.chance(1, 2) ? 0 : prng.below(600);
  Memory memory{AlignedBuffer(skip + size), {}};
  std::byte* at = memory.bytes.data() + skip;
  const std::uint64_t piece_max = prng.chance(1, 2) ? size : 1 + prng.below(5000);
  for (std::uint64_t left = size; left != 0;) {
    const std::uint64_t piece = prng.chance(1, 8) ? 0 : std::min(left, 1 + prng.below(piece_max));
    memory.pieces.push_back({at, piece});
    at += piece;
    left -= piece;
  }
  return memory;
}

Task<> DiskContract::write(Range range, WriteFlags flags) {
  Memory memory = random_memory(range.length);
  const Buffers data = memory.buffers();
  data.for_each([&](MutableBytes piece) {
    for (std::byte& byte : piece) byte = static_cast<std::byte>(prng());
  });
  co_await edge->write(range.offset, data, flags);
  data.copy_to(MutableBytes(model).subspan(range.offset, range.length));
}

Task<> DiskContract::write_zeroes(Range range, WriteFlags flags) {
  const Result<> done = co_await edge->write_zeroes(range, flags).result();
  const bool refused =
      !done && has(flags, WriteFlags::no_fallback) && done.error().code() == Errc::unsupported;
  if (!done && !refused) co_await done.error();
  if (done)
    std::fill_n(model.begin() + static_cast<long>(range.offset), range.length, std::byte{0});
}

Task<> DiskContract::discard(Range range) {
  co_await edge->discard(range);
  std::vector<std::byte> got(range.length);
  co_await edge->read(range.offset, Buffers(got));
  std::byte* expected = model.data() + range.offset;
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != std::byte{0} && got[i] != expected[i])
      co_await Error(Errc::corrupt,
                     "a discard has put other content at " + std::to_string(range.offset + i));
  std::copy(got.begin(), got.end(), expected);
}

Task<> DiskContract::expect_read(Range range) {
  Memory memory = random_memory(range.length);
  const Buffers data = memory.buffers();
  co_await edge->read(range.offset, data);
  const std::byte* expected = model.data() + range.offset;
  std::uint64_t at = 0;
  data.for_each([&](MutableBytes piece) {
    EXPECT_TRUE(std::equal(piece.begin(), piece.end(), expected + at))
        << "in a read of " << range.length << " bytes at " << range.offset;
    at += piece.size();
  });
}

Task<> DiskContract::expect_all() {
  const Range all{0, model.size()};
  return expect_read(all);
}

Task<> DiskContract::random_request(std::uint64_t length_max, Range within) {
  const Range range = random_range(length_max, within);
  if (prng.chance(1, 32)) return edge->flush();  // seldom: what waits for a disk takes long
  switch (prng.below(9)) {
    case 0: return discard(range);
    case 1: return write_zeroes(range, WriteFlags::none);
    case 2: return write_zeroes(range, WriteFlags::may_unmap);
    case 3: return write_zeroes(range, WriteFlags::no_fallback | WriteFlags::may_unmap);
    case 4: return write(range, prng.chance(1, 4) ? WriteFlags::fua : WriteFlags::none);
    case 5:
    case 6: return write(range);
    default: return expect_read(range);
  }
}

}  // namespace tidemark::contract
