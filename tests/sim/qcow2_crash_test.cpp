// qcow2 through power cuts: after a crash at any operation every flushed byte is there, no sector
// holds what was never written to it, and qemu-img check finds leaked clusters at most.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"
#include "storage/file.hpp"
#include "task/group.hpp"
#include "tests/sim/harness.hpp"
#include "tests/sim/sector_model.hpp"

namespace tidemark::sim {
namespace {

using qcow2::WriteOrder;

struct Disk {
  std::uint64_t cluster_size = 4096;
  std::uint64_t size = 1 * MiB;
  bool backing = true;
  bool extended_l2 = false, data_file = false, lazy = false;
  int steps = 12;                       // of each writer
  bool check = true;                    // let qemu-img look at it too
  WriteOrder order = WriteOrder::standard();
};

// An image opened on a process's machine, and everything below it.
class OpenImage {
 public:
  explicit OpenImage(Reactor& reactor) : graph_(reactor) {}

  Task<> open(const Disk& disk) {
    BlockNode* storage = co_await file_node("/a.qcow2", false);
    using P = Permissions;
    const P writes{P::consistent_read | P::write | P::resize, P::all}, reads{P::consistent_read, P::all};
    auto file = co_await unwrap(Edge::attach(*storage, Role::file, writes, "test"));
    Qcow2OpenOptions options;
    options.write_order = disk.order;
    options.data_file_follows = true;
    options.l2_cache_bytes = options.refcount_cache_bytes = 0;       // the least there is
    auto opened = co_await Qcow2Driver::open(std::move(file), options).result();
    if (!opened) {
      (void)co_await graph_.release(*storage).result();
      co_await opened.error();
    }
    std::unique_ptr<Qcow2Driver> driver = *std::move(opened);
    if (driver->needs_data_file()) {
      BlockNode* data = co_await file_node("/a.data", false);
      driver->set_data_file(co_await unwrap(Edge::attach(*data, Role::data_file, writes, "test")));
    }
    if (disk.backing) {
      BlockNode* base = co_await file_node("/base.raw", true);
      driver->set_backing(co_await unwrap(Edge::attach(*base, Role::backing, reads, "test")));
    }
    NodeOptions named;
    named.name = "image";
    BlockNode* node = co_await graph_.add(named, std::move(driver));
    root_ = co_await unwrap(Edge::attach(*node, Role::root, writes, "test"));
  }
  Task<> close() {
    root_.reset();
    co_await graph_.close_all();
  }
  Edge& edge() noexcept { return *root_; }
  Graph& graph() noexcept { return graph_; }

  Task<BlockNode*> file_node(std::string path, bool read_only) {
    FileOptions options;
    options.filename = std::move(path);
    options.read_only = read_only;
    auto driver = co_await open_file(graph_.reactor(), std::move(options));
    NodeOptions node;
    node.read_only = read_only;
    co_return co_await graph_.add(node, std::move(driver));
  }

 private:
  Graph graph_;
  std::unique_ptr<Edge> root_;
};

// A directory that goes with the test, for qemu-img.
class Directory {
 public:
  Directory() {
    const char* base = std::getenv("TMPDIR");
    path_ = std::string(base ? base : "/tmp") + "/tidemark-crash-XXXXXX";
    TM_ASSERT(::mkdtemp(path_.data()));
  }
  Directory(const Directory&) = delete;
  ~Directory() { std::filesystem::remove_all(path_); }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

void export_file(const SimDisk& disk, const std::string& name, const std::string& to) {
  std::FILE* file = std::fopen(to.c_str(), "wb");
  TM_ASSERT(file);
  const std::uint64_t size = disk.export_file(name, [&](std::uint64_t at, Bytes bytes) {
    std::fseek(file, static_cast<long>(at), SEEK_SET);
    TM_ASSERT(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  });
  std::fclose(file);
  std::filesystem::resize_file(to, size);
}

Result<> check_with_qemu(const SimDisk& machine, const Directory& directory, const Disk& disk) {
  export_file(machine, "/a.qcow2", directory.path() + "/a.qcow2");
  if (disk.backing) export_file(machine, "/base.raw", directory.path() + "/base.raw");
  if (disk.data_file) export_file(machine, "/a.data", directory.path() + "/a.data");
  const std::string command = "cd " + directory.path() + " && qemu-img check -f qcow2 a.qcow2 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) != 0;) text.append(buffer, n);
  const int status = ::pclose(pipe);
  constexpr int leaks_only = 3;
  if (status == 0 || (WIFEXITED(status) && WEXITSTATUS(status) == leaks_only)) return {};
  return Error(Errc::corrupt, "qemu-img check: " + text);
}

class Writers : public Workload {
 public:
  explicit Writers(Disk disk) : disk_(disk), model_(disk.size) {}

  Task<> prepare(SimProcess& process) override {
    random_.emplace(process.backend().random());
    if (disk_.backing) {
      std::vector<std::byte> base(disk_.size);
      const SectorModel::Stamp stamp = model_.next_stamp();
      SectorModel::fill(base, stamp);
      const Range all{0, disk_.size};
      model_.begin(all, stamp);
      model_.end(all);
      process.backend().world().disk().import_file("/base.raw", base);
    }
    process.backend().world().disk().import_file("/a.qcow2", {});
    if (disk_.data_file) process.backend().world().disk().import_file("/a.data", {});
    co_await make_image(process);
    OpenImage image(process.reactor());
    co_await image.open(disk_);
    const Result<> worked = co_await write_some(process, image).result();
    co_await image.close();
    co_await unwrap(worked);
    model_.all_durable();
  }

  Task<> run(SimProcess& process) override {
    OpenImage image(process.reactor());
    co_await image.open(disk_);
    const Result<> worked = co_await write_some(process, image).result();
    const Result<> closed = co_await image.close().result();
    co_await unwrap(worked);
    co_await unwrap(closed);
    model_.all_durable();
  }

  Task<> recover(SimProcess& process) override {
    OpenImage image(process.reactor());
    co_await image.open(disk_);
    co_await image.close();
  }

  Task<> verify(SimProcess& process) override {
    const SimDisk& machine = process.backend().world().disk();
    if (disk_.check) co_await unwrap(check_with_qemu(machine, directory_, disk_));
    OpenImage image(process.reactor());
    co_await image.open(disk_);
    AlignedBuffer content(disk_.size);
    const Result<> read = co_await image.edge().read(0, content.bytes()).result();
    co_await image.close();
    co_await unwrap(read);
    co_await unwrap(model_.check(content.bytes()));
  }

 private:
  Task<> make_image(SimProcess& process) {
    OpenImage image(process.reactor());
    BlockNode* storage = co_await image.file_node("/a.qcow2", false);
    Qcow2CreateOptions options;
    options.size = disk_.size;
    options.cluster_size = disk_.cluster_size;
    options.extended_l2 = disk_.extended_l2;
    options.lazy_refcounts = disk_.lazy;
    if (disk_.data_file) options.data_file = "a.data";
    if (disk_.backing) options.backing_file = "base.raw", options.backing_format = "raw";
    using P = Permissions;
    const P writes{P::consistent_read | P::write | P::resize, P::all};
    Result<> made;
    {
      auto edge = co_await unwrap(Edge::attach(*storage, Role::root, writes, "test"));
      std::unique_ptr<Edge> data;
      if (disk_.data_file) {
        BlockNode* outside = co_await image.file_node("/a.data", false);
        data = co_await unwrap(Edge::attach(*outside, Role::root, writes, "test"));
      }
      made = co_await Qcow2Driver::create(*edge, options, data.get()).result();
    }
    co_await image.close();
    co_await unwrap(made);
  }

  // Writers side by side, each on its own part of the disk.
  Task<> write_some(SimProcess& process, OpenImage& image) {
    constexpr std::uint64_t writers = 4;
    const std::uint64_t width = align_down(disk_.size / writers, disk_.cluster_size);
    auto body = [&](TaskGroup& group) -> Task<> {
      for (std::uint64_t w = 0; w < writers; ++w) group.spawn(write_part(image.edge(), {w * width, width}));
      co_await group.join();
    };
    co_await with_group(process.reactor(), body);
  }

  Task<> write_part(Edge& edge, Range part) {
    for (int i = 0; i < disk_.steps; ++i) co_await step(edge, pick(part));
  }

  Range pick(Range part) {
    const std::uint64_t unit = random_->chance(1, 2) ? disk_.cluster_size : SectorModel::sector;
    const std::uint64_t units = part.length / unit, at = random_->below(units);
    const std::uint64_t most = std::min<std::uint64_t>(units - at, random_->chance(1, 4) ? 20 : 4);
    return {part.offset + at * unit, (1 + random_->below(most)) * unit};
  }

  Task<> step(Edge& edge, Range range) {
    const std::uint64_t choice = random_->below(10);
    if (choice == 0) {
      const auto writes = model_.before_flush();
      co_await edge.flush();
      model_.flushed(writes);
    } else if (choice <= 3) {
      // Zeroes go by subclusters too.
      const std::uint64_t unit = choice != 1 && disk_.extended_l2 ? disk_.cluster_size / 32 : disk_.cluster_size;
      const Range whole = range.narrowed(unit);
      if (whole.empty()) co_return;
      model_.begin(whole, 0);
      const WriteFlags flags = choice == 2 ? WriteFlags::may_unmap : WriteFlags::none;
      if (choice == 1) co_await edge.discard(whole);
      else co_await edge.write_zeroes(whole, flags);
      model_.end(whole);
    } else {
      co_await write(edge, range, choice == 4 && !disk_.data_file);
    }
  }

  Task<> write(Edge& edge, Range range, bool compressed) {
    if (compressed) range = range.narrowed(disk_.cluster_size);
    if (range.empty()) co_return;
    const SectorModel::Stamp stamp = model_.next_stamp();
    AlignedBuffer data(range.length);
    SectorModel::fill(data.bytes(), stamp);
    model_.begin(range, stamp);
    if (compressed) co_await edge.write_compressed(range.offset, data.bytes());
    else co_await edge.write(range.offset, data.bytes());
    model_.end(range);
  }

  const Disk disk_;
  SectorModel model_;
  std::optional<Prng> random_;
  Directory directory_;
};

CrashPlan plan() {
  CrashPlan plan;
  // A write that stops within a table entry would tear the entry, whatever the writer does; Linux
  // stops at pages.
  plan.options.short_file_ppm = 0;
  plan.seeds = 2;
  plan.ops_max = 20;
  plan.fates = 2;
  return plan;
}

testing::AssertionResult survives(Disk disk) {
  return survives_crashes([disk] { return std::make_unique<Writers>(disk); }, plan());
}

TEST(Qcow2Crash, OverABackingFile) { EXPECT_TRUE(survives({})); }

TEST(Qcow2Crash, Alone) {
  Disk disk;
  disk.backing = false;
  EXPECT_TRUE(survives(disk));
}

// Many tables, which come and go from small caches.
Disk small_clusters() {
  Disk disk;
  disk.cluster_size = 512;
  disk.size = 512 * KiB;
  disk.steps = 25;
  return disk;
}
TEST(Qcow2Crash, SmallClusters) { EXPECT_TRUE(survives(small_clusters())); }

TEST(Qcow2Crash, UsualClusters) {
  Disk disk;
  disk.cluster_size = 64 * KiB;
  disk.size = 2 * MiB;
  EXPECT_TRUE(survives(disk));
}

TEST(Qcow2Crash, ExtendedL2) {
  Disk disk;
  disk.cluster_size = 16 * KiB;
  disk.extended_l2 = true;
  EXPECT_TRUE(survives(disk));
}

TEST(Qcow2Crash, ADataFile) {
  Disk disk;
  disk.data_file = true;
  EXPECT_TRUE(survives(disk));
}

TEST(Qcow2Crash, LazyRefcounts) {
  Disk disk;
  disk.lazy = true;
  EXPECT_TRUE(survives(disk));
}

// A rule that is missing is found out.
void expect_caught(const WriteOrder& order, Disk disk) {
  disk.order = order;
  CrashPlan many = plan();
  many.seeds = 50;
  const CrashReport report = try_crashes([disk] { return std::make_unique<Writers>(disk); }, many);
  ASSERT_TRUE(report.failure.has_value()) << report.cases << " cases";
}

// Content alone tells.
TEST(Qcow2Misordered, TablesBeforeData) {
  Disk disk;
  disk.check = false;
  expect_caught(WriteOrder::standard_but(Rule::data_before_tables), disk);
}

TEST(Qcow2Misordered, TablesBeforeRefcounts) { expect_caught(WriteOrder::standard_but(Rule::refcounts_before_tables), {}); }

TEST(Qcow2Misordered, NoSyncBetween) { expect_caught(WriteOrder(), {}); }

}  // namespace
}  // namespace tidemark::sim
