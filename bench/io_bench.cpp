// Random 4 KiB reads and writes on one file, by each backend and by fio's io_uring engine, through
// the page cache and past it, at depth 1 and 32.  Prints operations a second (the best of three
// rounds in turn, against noise), the ratio to fio, and the processor time an operation costs us.
//
//   io_bench [DIRECTORY [SECONDS [CASE]]]   a file of 512 MiB is made in DIRECTORY and removed

#include <fmt/format.h>

#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "base/random.hpp"
#include "io/aligned.hpp"
#include "io/file.hpp"
#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"
#include "task/finally.hpp"
#include "task/group.hpp"

namespace {

using namespace tidemark;

constexpr std::uint64_t block = 4 * KiB, file_size = 512 * MiB;

struct Case {
  bool write, direct;
  int depth;
  std::string name() const {
    return fmt::format("{} {} depth {}", write ? "write" : "read", direct ? "direct" : "cached", depth);
  }
};

struct Rate {
  double per_second = 0, cpu_us = 0;
  void keep_best(Rate o) { if (o.per_second > per_second) *this = o; }
};

class Bench {
 public:
  Bench(std::string path, double seconds) : path_(std::move(path)), seconds_(seconds) {}

  void fill(IoBackend& backend) {
    Reactor reactor(backend);
    check(reactor.run(fill_file(reactor)));
  }

  Rate rate(IoBackend& backend, Case what) {
    Reactor reactor(backend);
    std::uint64_t operations = 0;
    const Instant start = reactor.now();
    const double cpu_start = cpu_seconds();
    check(reactor.run(run_case(reactor, what, operations)));
    const std::chrono::duration<double> took = reactor.now() - start;
    const double count = static_cast<double>(operations);
    return {count / took.count(), (cpu_seconds() - cpu_start) * 1e6 / count};
  }

  // fio's minimal output: field 8 is the read rate, field 49 the write rate.
  double fio_rate(Case what) const {
    const std::string command = fmt::format(
        "fio --minimal --name=b --filename={} --ioengine=io_uring --rw={} --bs=4k --size={} "
        "--direct={:d} --iodepth={} --time_based --runtime={} --norandommap --invalidate=0 "
        "2>/dev/null | cut -d';' -f{}",
        path_, what.write ? "randwrite" : "randread", file_size, what.direct, what.depth, seconds_,
        what.write ? 49 : 8);
    FILE* output = ::popen(command.c_str(), "r");
    if (!output) return 0;
    char line[64] = "0";
    (void)!std::fgets(line, sizeof line, output);
    ::pclose(output);
    return std::atof(line);
  }

 private:
  static double cpu_seconds() {
    rusage usage;
    ::getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](timeval t) {
      return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  }
  static void check(const Result<>& result) {
    if (result) return;
    fmt::print(stderr, "io_bench: {}\n", result.error().message());
    std::exit(1);
  }

  Task<> fill_file(Reactor& reactor) {
    OpenFlags flags;
    flags.write = flags.create = true;
    File file = co_await File::open(reactor, path_, flags);
    AlignedBuffer buffer(MiB);
    Prng prng(1);
    for (std::size_t i = 0; i < MiB; i += 8) store_le(buffer.data() + i, prng());
    for (std::uint64_t at = 0; at < file_size; at += MiB) co_await file.write(at, buffer.bytes());
    co_await file.sync();
    co_await file.close();
  }

  Task<> worker(File& file, Case what, Instant end, std::uint64_t seed, std::uint64_t& operations) {
    AlignedBuffer buffer(block);
    Prng prng(seed);
    while (file.reactor().now() < end) {
      for (int i = 0; i < 16; ++i, ++operations) {
        const std::uint64_t at = prng.below(file_size / block) * block;
        if (what.write) co_await file.write(at, buffer.bytes());
        else co_await file.read(at, buffer.bytes());
      }
    }
  }

  Task<> run_case(Reactor& reactor, Case what, std::uint64_t& operations) {
    OpenFlags flags;
    flags.write = true;
    flags.direct = what.direct;
    File file = co_await File::open(reactor, path_, flags);
    const Instant end =
        reactor.now() + Duration(static_cast<std::int64_t>(seconds_ * 1'000'000'000.0));
    auto all = [&](TaskGroup& group) -> Task<> {
      for (int i = 0; i < what.depth; ++i)
        group.spawn(worker(file, what, end, static_cast<std::uint64_t>(i), operations));
      co_await group.join();
    };
    auto close = [&file] { return file.close(); };
    co_await finally(with_group(reactor, all), close);
  }

  std::string path_;
  double seconds_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::string path = std::string(argc > 1 ? argv[1] : ".") + "/io_bench.tmp";
  const double seconds = argc > 2 ? std::atof(argv[2]) : 1.0;
  const std::string only = argc > 3 ? argv[3] : "";
  Bench bench(path, seconds);
  const auto threads = make_threads_backend();
  const auto uring = make_uring_backend();
  if (!threads) return 1;
  bench.fill(**threads);
  fmt::print("{:<24}{:>10}{:>10}{:>10}{:>8}{:>10}{:>10}\n", "", "io_uring", "threads", "fio", "ratio",
             "us cpu", "us cpu");
  for (const bool direct : {false, true})
    for (const bool write : {false, true})
      for (const int depth : {1, 32}) {
        const Case what = {write, direct, depth};
        if (what.name().find(only) == std::string::npos) continue;
        Rate ours, fallback;
        double fio = 0;
        for (int round = 0; round < 3; ++round) {
          if (uring) ours.keep_best(bench.rate(**uring, what));
          fallback.keep_best(bench.rate(**threads, what));
          fio = std::max(fio, bench.fio_rate(what));
        }
        fmt::print("{:<24}{:>10.0f}{:>10.0f}{:>10.0f}{:>8.2f}{:>10.2f}{:>10.2f}\n", what.name(),
                   ours.per_second, fallback.per_second, fio, fio > 0 ? ours.per_second / fio : 0,
                   ours.cpu_us, fallback.cpu_us);
      }
  std::remove(path.c_str());
}
