// Any bytes as a tracking store, opened, read, written to and closed: an error or bitmaps, and never an end.
//
// The first byte chooses: the rest is the file; or it changes a root, a catalogue or a log whose checksums are right
// all the same, so that what lies behind them is reached.
#include "io/aligned.hpp"
#include "tests/fuzz/input.hpp"
#include "tests/sim/tracking_workload.hpp"
#include "tracking/checksum.hpp"
#include "tracking/log_block.hpp"
#include "tracking/superblock.hpp"

using namespace tidemark;
using namespace tidemark::sim;
using tracking::Superblock;

namespace {

const std::string image = "/d/disk", store = "/d/disk.tidemark";
using File = std::vector<std::byte>;

struct Machine {
  Machine() {
    disk.log_bytes = 8192;
    world.disk().make_directory("/d");
    world.disk().import_file(image, File(disk.size));
    world.disk().import_file("/proc/sys/kernel/random/boot_id", as_bytes("boot\n"));
  }
  template <class Use>
  Result<> session(Use use, bool kill) {
    SimProcess process(world);
    auto all = [&]() -> Task<> {
      TrackedNode node(process, disk);
      co_await node.open();
      const Result<> used = co_await use(node).result();
      if (kill) process.backend().kill();
      const Result<> closed = co_await node.close().result();
      co_await unwrap(used);
      if (!kill) co_await unwrap(closed);
    };
    return process.run(all());
  }

  SimWorld world{1};
  TrackedDisk disk;
};

Task<> work(TrackedNode& node) {
  AlignedBuffer data(8192);
  Buffers(data.bytes()).fill_zero();
  for (const std::uint64_t at : {0, 4096, 65536}) co_await node.edge().write(at, data.bytes());
  for (const auto& bitmap : node.node().bitmaps().all()) (void)bitmap->dirty_bytes();
}

// Two bitmaps, one of them with bits; not closed.
Task<> make(TrackedNode& node) {
  co_await node.add_store();
  for (const char* name : {"a", "b"}) {
    NodeBitmap* bitmap = co_await unwrap(node.node().bitmaps().add(name, node.node().size(), 4096));
    bitmap->set_persistent(true);
    co_await node.store()->save();
    co_await work(node);
  }
  co_await node.store()->save();
}

// After a kill; or closed well.
File good_store(bool killed) {
  Machine machine;
  const Result<> made = machine.session(make, killed);
  TM_ASSERT(made.ok());
  return machine.world.disk().export_file(store);
}

void change(MutableBytes bytes, FuzzInput& input) {
  for (std::uint64_t changes = 1 + input.number(1) % 4; changes != 0 && !bytes.empty(); --changes) {
    const std::uint64_t where = input.number(2), how = input.number(1);
    const std::size_t at = where % bytes.size();
    if (how & 1 && bytes.size() - at >= 8) store_le(bytes.data() + at, input.number(8));
    else bytes[at] = static_cast<std::byte>(input.number(1));
  }
}

void put_root(File& file, std::vector<std::byte> block) {
  constexpr std::size_t sum_at = Superblock::bytes - sizeof(std::uint64_t);
  store_le(block.data() + sum_at, tracking::checksum(Bytes(block).first(sum_at), 0));
  for (unsigned copy = 0; copy < Superblock::copies; ++copy)
    std::copy(block.begin(), block.end(), file.begin() + static_cast<std::ptrdiff_t>(copy * Superblock::bytes));
}

void change_root(File& file, FuzzInput& input) {
  std::vector<std::byte> block(file.begin(), file.begin() + Superblock::bytes);
  change(MutableBytes(block).first(256), input);
  put_root(file, std::move(block));
}

void change_catalogue(File& file, FuzzInput& input) {
  auto decoded = Superblock::decode(Bytes(file).first(Superblock::bytes));
  TM_ASSERT(decoded.ok() && decoded->has_value());
  Superblock root = *std::move(*decoded);
  const Bytes old = Bytes(file).subspan(root.catalogue[0], root.catalogue_bytes);
  File catalogue(old.begin(), old.end());
  change(catalogue, input);
  const Bytes more = input.rest().first(std::min<std::size_t>(input.rest().size(), 4096));
  catalogue.insert(catalogue.end(), more.begin(), more.end());
  root.catalogue_bytes = catalogue.size();
  root.catalogue_sum = tracking::checksum(catalogue, root.store_id);
  const std::size_t at = align_up(file.size(), Superblock::bytes);
  root.catalogue[0] = root.catalogue[1] = at;
  file.resize(at + align_up(catalogue.size(), Superblock::bytes));
  std::copy(catalogue.begin(), catalogue.end(), file.begin() + static_cast<std::ptrdiff_t>(at));
  put_root(file, root.encode());
}

void change_log(File& file, FuzzInput& input) {
  const auto decoded = Superblock::decode(Bytes(file).first(Superblock::bytes));
  TM_ASSERT(decoded.ok() && decoded->has_value());
  const Superblock& root = **decoded;
  const tracking::LogPlace place{root.log_epoch + input.number(1) % 4, input.number(1) % 2, input.number(1) % 4};
  std::vector<Range> ranges;
  while (!input.empty() && ranges.size() < tracking::log_block_records) {
    const std::uint64_t offset = input.number(8);
    ranges.push_back({offset, input.number(8)});
  }
  const std::uint64_t at = root.half_start(place.epoch) + place.block * tracking::log_block_bytes;
  tracking::encode_log_block(MutableBytes(file).subspan(at, tracking::log_block_bytes), root.store_id, place, ranges);
}

File file_of(FuzzInput& input) {
  static const File good[] = {good_store(false), good_store(true)};
  const std::uint64_t choice = input.number(1);
  if (choice % 4 == 0) return File(input.rest().begin(), input.rest().end());
  File file = good[choice >> 2 & 1];
  if (choice % 4 == 1) change_root(file, input);
  if (choice % 4 == 2) change_catalogue(file, input);
  if (choice % 4 == 3) change_log(file, input);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(std::as_bytes(std::span(data, size)));
  Machine machine;
  machine.world.disk().import_file(store, file_of(input));
  for (int i = 0; i < 2; ++i) (void)machine.session(work, i == 0);
  return 0;
}
