// Any bytes as a qcow2 image, opened, read, written, zeroed, discarded, compressed, resized, closed
// and opened again: every operation ends, with a result or an error.
//
// The first byte chooses: the rest is the image, or changes to a good one (so that what lies behind
// the header is reached) followed by operations.
#include <algorithm>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"
#include "io/sim/process.hpp"
#include "storage/memory.hpp"
#include "tests/fuzz/input.hpp"

using namespace tidemark;

namespace {

constexpr std::uint64_t disk_size = 256 * KiB;
constexpr Permissions writes{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};

class Bench {
 public:
  explicit Bench(Reactor& reactor) : graph_(reactor) {}

  Task<BlockNode*> add_file(Bytes content) {
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
  Task<std::vector<std::byte>> content(BlockNode& file) {
    auto edge = co_await unwrap(Edge::attach(file, Role::root, writes, "fuzz"));
    std::vector<std::byte> bytes(edge->size());
    co_await edge->read(0, MutableBytes(bytes));
    co_return bytes;
  }
  Task<> create(BlockNode& file, qcow2::CompressionType type) {
    auto edge = co_await unwrap(Edge::attach(file, Role::root, writes, "fuzz"));
    Qcow2CreateOptions options;
    options.size = disk_size;
    options.cluster_size = 512;
    options.compression = type;
    co_await Qcow2Driver::create(*edge, options);
  }
  Task<std::unique_ptr<Edge>> open(BlockNode& file, bool read_only) {
    auto edge = co_await unwrap(Edge::attach(file, Role::file, writes, "fuzz"));
    Qcow2OpenOptions options;
    options.read_only = read_only;
    options.l2_cache_bytes = options.refcount_cache_bytes = 0;
    auto driver = co_await Qcow2Driver::open(std::move(edge), options);
    NodeOptions node;
    node.read_only = read_only;
    BlockNode* image = co_await graph_.add(node, std::move(driver));
    const Permissions reads{Permissions::consistent_read, Permissions::all};
    const Permissions permissions = read_only ? reads : writes;
    co_return co_await unwrap(Edge::attach(*image, Role::root, permissions, "fuzz"));
  }
  Task<> close(std::unique_ptr<Edge> image) {
    BlockNode& node = image->node();
    image.reset();
    co_await graph_.remove(node);
  }
  Task<> end() { return graph_.close_all(); }

 private:
  Graph graph_;
};

Task<> operate(Edge& image, FuzzInput& input) {
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

// An image that has some of everything.
Task<std::vector<std::byte>> make_good_image(Reactor& reactor, qcow2::CompressionType type) {
  Bench bench(reactor);
  const Bytes nothing;
  BlockNode* file = co_await bench.add_file(nothing);
  co_await bench.create(*file, type);
  auto image = co_await bench.open(*file, false);
  AlignedBuffer data(8 * KiB);
  std::fill_n(data.data(), data.size(), std::byte{7});
  const Range zeroes{64 * KiB, 8 * KiB}, kept{2 * KiB, 1 * KiB};
  co_await image->write(0, data.bytes());
  co_await image->write_compressed(32 * KiB, data.bytes());
  co_await image->write_zeroes(zeroes);
  co_await image->write_zeroes(kept);
  co_await bench.close(std::move(image));
  auto bytes = co_await bench.content(*file);
  co_await bench.end();
  co_return bytes;
}

std::vector<std::byte> good_image(qcow2::CompressionType type) {
  SimWorld world(1);
  SimProcess process(world);
  auto made = process.run(make_good_image(process.reactor(), type));
  TM_ASSERT(made.ok());
  return *std::move(made);
}

const std::vector<std::byte>& good_image_of(bool zstd) {
  static const std::vector<std::byte> images[] = {good_image(qcow2::CompressionType::zlib),
                                                  good_image(qcow2::CompressionType::zstd)};
  return images[zstd];
}

std::vector<std::byte> image_of(std::uint64_t choice, FuzzInput& input) {
  if (choice == 0) return {input.rest().begin(), input.rest().end()};
  std::vector<std::byte> image = good_image_of(choice & 1);
  for (std::uint64_t changes = choice >> 4; changes != 0; --changes) {
    const std::uint64_t where = input.number(2), entry = input.number(1);
    // Tables are made of entries of eight bytes; a byte alone changes too.
    const std::size_t at = (where & 0x8000 ? where * 8 : where) % (image.size() - 8);
    if (entry & 1) store_be(image.data() + at, input.number(8));
    else image[at] = static_cast<std::byte>(input.number(1));
  }
  return image;
}

Task<> use(Reactor& reactor, Bytes content, FuzzInput input) {
  Bench bench(reactor);
  BlockNode* file = co_await bench.add_file(content);
  for (const bool read_only : {true, false, true}) {
    auto opened = co_await bench.open(*file, read_only).result();
    if (!opened) continue;
    std::unique_ptr<Edge> image = *std::move(opened);
    co_await operate(*image, input);
    (void)co_await bench.close(std::move(image)).result();
  }
  co_await bench.end();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(std::as_bytes(std::span(data, size)));
  const std::uint64_t choice = input.number(1);
  const std::vector<std::byte> image = image_of(choice, input);
  SimWorld world(1);
  SimProcess process(world);
  const Result<> used = process.run(use(process.reactor(), image, input));
  TM_ASSERT(used.ok());
  return 0;
}
