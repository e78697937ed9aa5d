// Any bytes as a qcow2 image, opened, read, written, zeroed, discarded, compressed, resized, closed
// and opened again: every operation ends, with a result or an error.
//
// The first byte chooses: the rest is the image, or changes to a good one (so that what lies behind
// the header is reached) followed by operations.
#include "tests/fuzz/qcow2_bench.hpp"

using namespace tidemark;

namespace {

std::vector<std::byte> image_of(std::uint64_t choice, FuzzInput& input) {
  if (choice == 0) return {input.rest().begin(), input.rest().end()};
  std::vector<std::byte> image = good_image(choice & 1 ? FuzzKind::zstd : FuzzKind::zlib).image;
  for (std::uint64_t changes = choice >> 4; changes != 0; --changes) {
    const std::uint64_t where = input.number(2), entry = input.number(1);
    // Tables are made of entries of eight bytes; a byte alone changes too.
    const std::size_t at = (where & 0x8000 ? where * 8 : where) % (image.size() - 8);
    if (entry & 1) store_be(image.data() + at, input.number(8));
    else image[at] = static_cast<std::byte>(input.number(1));
  }
  return image;
}

Task<> use(Reactor& reactor, const FuzzImage& files, FuzzInput input) {
  FuzzBench bench(reactor);
  co_await bench.add_files(files);
  for (const bool read_only : {true, false, true}) {
    Qcow2OpenOptions options;
    options.read_only = read_only;
    auto opened = co_await bench.open(options).result();
    if (!opened) continue;
    std::unique_ptr<Edge> image = *std::move(opened);
    co_await fuzz_operate(*image, input);
    (void)co_await bench.close(std::move(image)).result();
  }
  co_await bench.end();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(std::as_bytes(std::span(data, size)));
  const std::uint64_t choice = input.number(1);
  const FuzzImage files{image_of(choice, input), std::vector<std::byte>(64 * KiB)};
  fuzz_run([&](Reactor& reactor) { return use(reactor, files, input); });
  return 0;
}
