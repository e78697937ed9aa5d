// What the layers between a user and a file cost, for 4 KiB requests that the page cache answers:
// the system call alone, File, a node over it, raw over that; and a node over nothing (null-co).
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdlib>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/raw/raw.hpp"
#include "io/aligned.hpp"
#include "io/threads/threads_backend.hpp"
#include "io/uring/uring_backend.hpp"
#include "storage/file.hpp"
#include "storage/null.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t disk = 64 * MiB, block = 4 * KiB;
constexpr std::int64_t batch = 4096;

enum class Layer : std::int64_t { file, node, raw, null };
enum class Backend : std::int64_t { threads, uring };

std::vector<std::uint64_t> random_blocks() {
  Prng random(7);
  std::vector<std::uint64_t> offsets(batch);
  for (auto& offset : offsets) offset = align_down(random.below(disk), block);
  return offsets;
}

// A file in the page cache, and gone at the end.
class CachedFile {
 public:
  CachedFile() {
    const char* directory = std::getenv("TMPDIR");
    path_ = std::string(directory ? directory : "/tmp") + "/tidemark-bench-XXXXXX";
    fd_ = ::mkstemp(path_.data());
    const std::vector<std::byte> content(disk, std::byte{1});
    TM_ASSERT(fd_ >= 0 && ::pwrite(fd_, content.data(), disk, 0) == static_cast<ssize_t>(disk));
  }
  CachedFile(const CachedFile&) = delete;
  ~CachedFile() {
    ::close(fd_);
    ::unlink(path_.c_str());
  }
  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_;
};

class Stack {
 public:
  Stack(Layer layer, Backend backend)
      : layer_(layer),
        io_(backend == Backend::uring ? *make_uring_backend() : *make_threads_backend()) {
    TM_ASSERT(reactor_.run(build()).ok());
  }
  ~Stack() { TM_ASSERT(reactor_.run(tear_down()).ok()); }

  template <bool writes>
  void run_batch() {
    TM_ASSERT(
        reactor_.run(layer_ == Layer::file ? through_file<writes>() : through_edge<writes>()).ok());
  }
  void add_bitmap() { (void)*edge_->node().bitmaps().add("b", disk, 64 * KiB); }

 private:
  using P = Permissions;

  Task<> build() {
    FileOptions options;
    options.filename = cached_.path();
    OpenFlags flags;
    flags.write = true;
    if (layer_ == Layer::file) {
      file_ = co_await File::open(reactor_, options.filename, flags);
      co_return;
    }
    NullOptions null;
    null.size = disk;
    std::unique_ptr<BlockDriver> driver;
    if (layer_ == Layer::null)
      driver = *open_null(reactor_, null);
    else
      driver = co_await open_file(reactor_, std::move(options));
    BlockNode* node = co_await add(std::move(driver));
    if (layer_ == Layer::raw) {
      const Permissions none;
      auto below = co_await unwrap(Edge::attach(*node, Role::file, none, "raw"));
      const RawOptions whole;
      driver = co_await unwrap(RawDriver::open(std::move(below), whole));
      node = co_await add(std::move(driver));
    }
    const Permissions user{P::consistent_read | P::write, P::all};
    edge_ = co_await unwrap(Edge::attach(*node, Role::root, user, "bench"));
  }
  Task<BlockNode*> add(std::unique_ptr<BlockDriver> driver) {
    NodeOptions options;
    return graph_.add(std::move(options), std::move(driver));
  }
  Task<> tear_down() {
    edge_.reset();
    co_await file_.close();
    co_await graph_.close_all();
  }
  template <bool writes>
  Task<> through_file() {
    for (const std::uint64_t offset : offsets_)
      if constexpr (writes)
        co_await file_.write(offset, memory_.bytes());
      else
        co_await file_.read(offset, memory_.bytes());
  }
  template <bool writes>
  Task<> through_edge() {
    for (const std::uint64_t offset : offsets_)
      if constexpr (writes)
        co_await edge_->write(offset, memory_.bytes());
      else
        co_await edge_->read(offset, memory_.bytes());
  }

  const Layer layer_;
  CachedFile cached_;
  std::unique_ptr<IoBackend> io_;
  Reactor reactor_{*io_};
  Graph graph_{reactor_};
  File file_;
  std::unique_ptr<Edge> edge_;
  AlignedBuffer memory_{block};
  const std::vector<std::uint64_t> offsets_ = random_blocks();
};

void per_request(benchmark::State& state) {
  state.SetItemsProcessed(state.iterations() * batch);
  state.counters["each"] =
      benchmark::Counter(static_cast<double>(state.iterations() * batch),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

template <bool writes>
void system_call(benchmark::State& state) {
  const CachedFile file;
  AlignedBuffer memory(block);
  const auto offsets = random_blocks();
  iovec piece{memory.data(), block};
  for (auto _ : state)
    for (const std::uint64_t offset : offsets) {
      const auto at = static_cast<off_t>(offset);
      const ssize_t done = writes ? ::pwritev2(file.fd(), &piece, 1, at, 0)
                                  : ::preadv2(file.fd(), &piece, 1, at, RWF_NOWAIT);
      TM_ASSERT(done == static_cast<ssize_t>(block));
    }
  per_request(state);
}
BENCHMARK(system_call<false>)->Name("read/system_call");
BENCHMARK(system_call<true>)->Name("write/system_call");

template <bool writes>
void requests(benchmark::State& state) {
  constexpr const char* layers[] = {"File", "node", "raw node over node", "node over null-co"};
  Stack stack(static_cast<Layer>(state.range(0)), static_cast<Backend>(state.range(1)));
  for (auto _ : state) stack.run_batch<writes>();
  per_request(state);
  state.SetLabel(layers[state.range(0)]);
}
BENCHMARK(requests<false>)
    ->Name("read")
    ->ArgNames({"layer", "uring"})
    ->ArgsProduct({{0, 1, 2, 3}, {0, 1}});
BENCHMARK(requests<true>)
    ->Name("write")
    ->ArgNames({"layer", "uring"})
    ->ArgsProduct({{0, 1, 2, 3}, {0, 1}});

void marked_writes(benchmark::State& state) {
  Stack stack(Layer::null, Backend::threads);
  stack.add_bitmap();
  for (auto _ : state) stack.run_batch<true>();
  per_request(state);
}
BENCHMARK(marked_writes)->Name("write/null_with_bitmap");

}  // namespace
}  // namespace tidemark
