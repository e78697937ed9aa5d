// What images have beside a disk, on images of every kind, broken ones too: snapshots, bitmaps, amending, resizing, space
// reserved, external data files, subclusters.  Every operation ends; a good image stays one.
#include "tests/fuzz/qcow2_bench.hpp"

using namespace tidemark;
using qcow2::Repair;

namespace {

constexpr std::uint64_t size_max = 4 * MiB;              // of what reserves space, and of what has bitmaps

std::string name_of(FuzzInput& input) { return std::string(1, static_cast<char>('1' + input.number(1) % 5)); }

Task<> use_snapshots(Qcow2Driver& driver, FuzzInput& input, std::uint64_t choice) {
  const std::string name = name_of(input);
  Qcow2Snapshot wanted = fuzz_snapshot(name);
  switch (choice) {
    case 0: (void)co_await driver.create_snapshot(std::move(wanted)).result(); break;
    case 1: (void)co_await driver.apply_snapshot(name).result(); break;
    default: (void)co_await driver.delete_snapshot(name).result(); break;
  }
  for (const Qcow2Snapshot& s : driver.snapshots()) TM_ASSERT(driver.find_snapshot(s.id).ok());
}

Task<> amend(Qcow2Driver& driver, FuzzInput& input) {
  Qcow2AmendOptions options;
  const std::uint64_t which = input.number(1), value = input.number(1);
  if (which & 1) options.version = 2 + (value & 1);
  if (which & 2) options.refcount_bits = 1u << (value >> 1 & 7);
  if (which & 4) options.lazy_refcounts = value & 16;
  if (which & 8) options.data_file_raw = value & 32;
  if (which & 16) options.backing_file = std::string(value, 'b'), options.backing_format = "raw";
  if (which & 32) options.size = value * 4096;
  if (which & 64) options.data_file = std::string(value, 'd');
  (void)co_await driver.amend(std::move(options)).result();
}

Task<> use_bitmaps(Qcow2Driver& driver, FuzzInput& input, bool store) {
  auto entries = co_await driver.bitmap_entries().result();
  if (entries)
    for (const qcow2::BitmapEntry& entry : *entries) (void)co_await driver.load_bitmap(entry).result();
  if (!store || driver.size() > size_max) co_return;
  auto bitmaps = fuzz_bitmaps(driver.size(), input.number(1) % 4);
  // Some that are there stay as they are.
  for (std::size_t i = 0; entries && i < entries->size() && input.number(1) % 2; ++i)
    bitmaps.push_back({(*entries)[i], std::nullopt}), bitmaps.back().entry.name += "kept";
  (void)co_await driver.store_bitmaps(std::move(bitmaps)).result();
}

Task<> change(Edge& image, FuzzInput& input) {
  Qcow2Driver& driver = FuzzBench::driver(image);
  for (int i = 0; i < 16 && !input.empty(); ++i) {
    const std::uint64_t choice = input.number(1) % 8;
    switch (choice) {
      case 0:
      case 1:
      case 2: co_await use_snapshots(driver, input, choice); break;
      case 3: co_await amend(driver, input); break;
      case 4: {
        const std::uint64_t size = input.number(2) * 512 % size_max, how = input.number(1);
        (void)co_await driver.resize(size, static_cast<Qcow2Preallocation>(how % 4)).result();
        break;
      }
      case 5:
      case 6: co_await use_bitmaps(driver, input, choice == 6); break;
      default: {
        const std::uint64_t length = std::min<std::uint64_t>(input.rest().size(), input.number(1) % 32);
        FuzzInput some(input.rest().first(std::min<std::size_t>(length, input.rest().size())));
        (void)input.number(length);
        co_await fuzz_operate(image, some);
      }
    }
  }
}

Task<> look(FuzzBench& bench, std::string snapshot) {
  Qcow2OpenOptions options;
  options.read_only = true;
  options.snapshot = std::move(snapshot);
  auto opened = co_await bench.open(std::move(options)).result();
  if (!opened) co_return;
  std::unique_ptr<Edge> image = *std::move(opened);
  AlignedBuffer start(64 * KiB);
  const std::uint64_t length = std::min<std::uint64_t>(start.size(), image->size());
  (void)co_await image->read(0, start.bytes().first(length)).result();
  (void)co_await bench.close(std::move(image)).result();
}

std::uint32_t version_of(Bytes image) { return load_be<std::uint32_t>(image.data() + 4); }
// The driver found what the check does not look for, and has stopped in the middle of something.
bool found_corrupt(Bytes image) { return version_of(image) >= 3 && (load_be<std::uint64_t>(image.data() + 72) & 2); }

// Operations leak nothing; but an image may have counted what lies behind the end of its file, which is only seen once
// the file has grown.
Task<> explain_leaks(Reactor& reactor, FuzzImage files) {
  FuzzBench bench(reactor);
  files.image.resize(files.image.size() + 8 * MiB);
  co_await bench.add_files(files);
  const auto longer = co_await bench.check(Repair::nothing).result();
  co_await bench.end();
  TM_ASSERT(!longer || longer->leaks != 0);
}

Task<> use(Reactor& reactor, const FuzzStart& start, FuzzInput input) {
  FuzzBench bench(reactor);
  co_await bench.add_files(start.files);
  const auto before = co_await bench.check(Repair::nothing).result();
  Qcow2OpenOptions options;
  options.keeps_content = input.number(1) & 1;
  auto opened = co_await bench.open(options).result();
  if (opened) {
    std::unique_ptr<Edge> image = *std::move(opened);
    co_await change(*image, input);
    (void)co_await bench.close(std::move(image)).result();
    if (before && before->clean()) {
      const qcow2::CheckReport after = co_await bench.check_good();
      // Bitmaps are left behind by who does not keep them, and by version 2.
      const std::vector<std::byte> left = co_await bench.header();
      const bool bitmaps_kept = options.keeps_content && version_of(left) == version_of(start.files.image);
      if (after.leaks != 0 && bitmaps_kept && !found_corrupt(left)) co_await explain_leaks(reactor, start.files);
    }
  }
  for (const char* name : {"", "1", "2"}) co_await look(bench, name);
  co_await bench.end();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(std::as_bytes(std::span(data, size)));
  const FuzzStart start = fuzz_start(input);
  fuzz_run([&](Reactor& reactor) { return use(reactor, start, input); });
  return 0;
}
