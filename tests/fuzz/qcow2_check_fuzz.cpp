// Any bytes as a qcow2 image, checked and repaired: it ends, and what it says holds.
//
// What a repair calls clean is clean when looked at again, can be opened and written to, and is clean then, too.
#include "tests/fuzz/qcow2_bench.hpp"

using namespace tidemark;
using qcow2::CheckReport;
using qcow2::Repair;

namespace {

Task<> write_clean(FuzzBench& bench, FuzzInput input) {
  const Qcow2OpenOptions plainly;
  auto opened = co_await bench.open(plainly).result();
  if (!opened) co_return;                                // of a feature that is not there, or for what is no table's fault
  std::unique_ptr<Edge> image = *std::move(opened);
  co_await fuzz_operate(*image, input);
  (void)co_await bench.close(std::move(image)).result();
  (void)co_await bench.check_good();
}

Task<> use(Reactor& reactor, const FuzzImage& files, FuzzInput input) {
  FuzzBench bench(reactor);
  co_await bench.add_files(files);
  const auto before = co_await bench.check(Repair::nothing).result();
  if (before) {
    (void)co_await bench.check(Repair::leaks).result();
    const auto all = co_await bench.check(Repair::all).result();
    if (all && all->clean()) {
      const CheckReport again = co_await bench.check_good();
      TM_ASSERT(again.leaks == 0);
      co_await write_clean(bench, input);
    }
  }
  co_await bench.end();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(std::as_bytes(std::span(data, size)));
  const FuzzStart start = fuzz_start(input);
  fuzz_run([&](Reactor& reactor) { return use(reactor, start.files, input); });
  return 0;
}
