#include "tests/fuzz/qcow2_bench.hpp"

#include <algorithm>

#include "base/random.hpp"
#include "storage/memory.hpp"
#include "tests/fuzz/qcow2_mutator.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t disk_size = 256 * KiB;

Task<> write_some(Edge& image, FuzzKind kind) {
  AlignedBuffer data(32 * KiB);
  std::fill_n(data.data(), data.size(), std::byte{7});
  const Range zeroes{64 * KiB, 32 * KiB}, kept{2 * KiB, 1 * KiB};
  const MutableBytes some = kind == FuzzKind::extended ? data.bytes() : data.bytes().first(8 * KiB);
  co_await image.write(0, some);
  if (kind != FuzzKind::outside) co_await image.write_compressed(32 * KiB, some);
  co_await image.write_zeroes(zeroes);
  co_await image.write_zeroes(kept);
}

Task<> make(FuzzBench& bench, FuzzKind kind) {
  Qcow2CreateOptions options;
  options.size = disk_size;
  options.cluster_size = kind == FuzzKind::extended ? 16 * KiB : 512;
  options.compression = kind == FuzzKind::zstd ? qcow2::CompressionType::zstd : qcow2::CompressionType::zlib;
  options.extended_l2 = kind == FuzzKind::extended;
  options.version = kind == FuzzKind::old ? 2 : 3;
  if (kind == FuzzKind::outside) options.data_file = "data";
  co_await bench.create(std::move(options));
  const Qcow2OpenOptions plainly;
  auto image = co_await bench.open(plainly);
  co_await write_some(*image, kind);
  Qcow2Driver& driver = FuzzBench::driver(*image);
  for (const char* name : {"one", "two"}) {
    if (kind != FuzzKind::storied && kind != FuzzKind::old) break;
    Qcow2Snapshot snapshot = fuzz_snapshot(name);
    co_await driver.create_snapshot(std::move(snapshot));
    co_await write_some(*image, kind);
  }
  if (kind == FuzzKind::storied) {
    auto bitmaps = fuzz_bitmaps(driver.size(), 3);
    co_await driver.store_bitmaps(std::move(bitmaps));
  }
  co_await bench.close(std::move(image));
}

FuzzImage made(FuzzKind kind) {
  FuzzImage files;
  fuzz_run([&](Reactor& reactor) -> Task<> {
    FuzzBench bench(reactor);
    FuzzImage empty;
    if (kind == FuzzKind::outside) empty.data.resize(disk_size);
    co_await bench.add_files(empty);
    const Result<> done = co_await make(bench, kind).result();
    const auto content = co_await bench.content().result();
    (void)co_await bench.end().result();
    co_await unwrap(done);
    files = co_await unwrap(content);
  });
  return files;
}

}  // namespace

void fuzz_run(const std::function<Task<>(Reactor&)>& body) {
  SimWorld world(1);
  SimProcess process(world);
  const Result<> done = process.run(body(process.reactor()));
  if (!done) std::fprintf(stderr, "%s\n", done.error().message().c_str());
  TM_ASSERT(done.ok());
}

Task<BlockNode*> FuzzBench::add_file(Bytes content) {
  MemoryOptions options;
  options.size = align_up(content.size(), sector_size);
  auto driver = co_await unwrap(open_memory(options));
  NodeOptions node;
  node.monitor_owned = true;
  BlockNode* file = co_await graph_.add(node, std::move(driver));
  auto edge = co_await unwrap(Edge::attach(*file, Role::root, writes, "fuzz"));
  if (!content.empty()) co_await edge->write(0, Buffers::of_const(content));
  co_return file;
}

// What cannot fail, with its words where it does.
Task<qcow2::CheckReport> FuzzBench::check_good() {
  auto report = co_await check(qcow2::Repair::nothing).result();
  if (!report) std::fprintf(stderr, "%s\n", report.error().message().c_str());
  TM_ASSERT(report.ok());
  // Of two that shared a cluster without a snapshot one is left, which does not know that it is alone.
  const auto harmless = [](const std::string& m) { return m.starts_with("Leaked") || m.ends_with("refcount=1"); };
  const bool good = report->check_errors == 0 && std::all_of(report->messages.begin(), report->messages.end(), harmless);
  for (const std::string& message : report->messages)
    if (!good) std::fprintf(stderr, "%s\n", message.c_str());
  TM_ASSERT(good);
  co_return *std::move(report);
}

Task<> FuzzBench::add_files(const FuzzImage& files) {
  image_ = co_await add_file(files.image);
  data_ = co_await add_file(files.data);
}

Task<> FuzzBench::create(Qcow2CreateOptions options) {
  auto edge = co_await unwrap(Edge::attach(*image_, Role::root, writes, "fuzz"));
  std::unique_ptr<Edge> data;
  if (!options.data_file.empty()) data = co_await unwrap(Edge::attach(*data_, Role::root, writes, "fuzz"));
  co_await Qcow2Driver::create(*edge, std::move(options), data.get());
}

Task<std::unique_ptr<Edge>> FuzzBench::open(Qcow2OpenOptions options) {
  auto edge = co_await unwrap(Edge::attach(*image_, Role::file, writes, "fuzz"));
  options.caches.l2 = options.caches.refcount = 0;
  options.data_file_follows = true;
  const bool read_only = options.read_only;
  auto driver = co_await Qcow2Driver::open(std::move(edge), std::move(options));
  if (driver->needs_data_file()) driver->set_data_file(co_await unwrap(Edge::attach(*data_, Role::data_file, writes, "fuzz")));
  NodeOptions node;
  node.read_only = read_only;
  BlockNode* image = co_await graph_.add(node, std::move(driver));
  const Permissions reads{Permissions::consistent_read, Permissions::all};
  const Permissions permissions = read_only ? reads : writes;
  co_return co_await unwrap(Edge::attach(*image, Role::root, permissions, "fuzz"));
}

Task<> FuzzBench::close(std::unique_ptr<Edge> image) {
  BlockNode& node = image->node();
  image.reset();
  co_await graph_.remove(node);
}

Task<qcow2::CheckReport> FuzzBench::check(qcow2::Repair repair) {
  const Permissions reads{Permissions::consistent_read, Permissions::all};
  const Permissions permissions = repair == qcow2::Repair::nothing ? reads : writes;
  auto edge = co_await unwrap(Edge::attach(*image_, Role::root, permissions, "fuzz"));
  qcow2::CheckOptions options;
  options.repair = repair;
  co_return co_await qcow2::check_image(*edge, std::move(options));
}

Task<std::vector<std::byte>> FuzzBench::content_of(BlockNode& file) {
  auto edge = co_await unwrap(Edge::attach(file, Role::root, writes, "fuzz"));
  std::vector<std::byte> bytes(edge->size());
  co_await edge->read(0, MutableBytes(bytes));
  co_return bytes;
}


Task<std::vector<std::byte>> FuzzBench::header() {
  auto edge = co_await unwrap(Edge::attach(*image_, Role::root, writes, "fuzz"));
  std::vector<std::byte> bytes(sector_size);
  co_await edge->read(0, MutableBytes(bytes));
  co_return bytes;
}

Task<FuzzImage> FuzzBench::content() {
  FuzzImage files;
  files.image = co_await content_of(*image_);
  files.data = co_await content_of(*data_);
  co_return files;
}

const FuzzImage& good_image(FuzzKind kind) {
  static const std::vector<FuzzImage> images = [] {
    std::vector<FuzzImage> all;
    for (std::size_t i = 0; i < fuzz_kinds; ++i) all.push_back(made(static_cast<FuzzKind>(i)));
    return all;
  }();
  return images[static_cast<std::size_t>(kind)];
}

Qcow2Snapshot fuzz_snapshot(std::string name) {
  Qcow2Snapshot snapshot;
  snapshot.name = std::move(name);
  return snapshot;
}

std::vector<Qcow2Bitmap> fuzz_bitmaps(std::uint64_t size, std::uint64_t count) {
  std::vector<Qcow2Bitmap> bitmaps;
  for (std::uint64_t i = 0; i < count; ++i) {
    Qcow2Bitmap bitmap;
    bitmap.entry.name = "bitmap" + std::to_string(i);
    bitmap.entry.flags = i == 1 ? 0 : qcow2::BitmapEntry::auto_flag;
    bitmap.entry.granularity_bits = static_cast<std::uint32_t>(9 + i % 8);
    bitmap.bits.emplace(size, std::uint64_t{1} << bitmap.entry.granularity_bits);
    const Range marked = Range{i * 4096, 64 * KiB}.intersect({0, size});
    if (!marked.empty()) bitmap.bits->set(marked);
    bitmaps.push_back(std::move(bitmap));
  }
  return bitmaps;
}

FuzzStart fuzz_start(FuzzInput& input) {
  const std::uint64_t choice = input.number(1), changes_max = 7;
  FuzzStart start;
  if (choice == 0xff) {
    start.files.image.assign(input.rest().begin(), input.rest().end());
    start.files.data.resize(disk_size);
    start.changed = true;
    return start;
  }
  const auto kind = static_cast<FuzzKind>(choice / 8 % fuzz_kinds);
  start.files = good_image(kind);
  for (std::uint64_t changes = choice & changes_max; changes != 0; --changes) {
    Prng random(input.number(8));
    start.changed |= change_image(start.files.image, random);
  }
  return start;
}

Task<> fuzz_operate(Edge& image, FuzzInput& input) {
  constexpr int operations_max = 40;
  AlignedBuffer buffer(128 * KiB);
  for (int i = 0; i < operations_max && !input.empty(); ++i) {
    const std::uint64_t kind = input.number(1), sectors = 1 + input.number(1);
    const std::uint64_t at = input.number(kind & 8 ? 7 : 2) * 512;
    const Range range{at, sectors * 512};
    const Buffers data(buffer.bytes().first(range.length));
    std::fill_n(buffer.data(), range.length, static_cast<std::byte>(kind));
    switch (kind & 7) {
      case 0:
      case 1: (void)co_await image.read(at, data).result(); break;
      case 2:
      case 3: (void)co_await image.write(at, data).result(); break;
      case 4: (void)co_await image.write_compressed(at, data).result(); break;
      case 5: (void)co_await image.write_zeroes(range, static_cast<WriteFlags>(kind >> 4 & 2)).result(); break;
      case 6: (void)co_await image.discard(range).result(); break;
      default:
        if (kind & 16) (void)co_await image.flush().result();
        else if (kind & 32) (void)co_await image.truncate(at).result();
        else (void)co_await image.map(range).result();
    }
  }
}

}  // namespace tidemark
