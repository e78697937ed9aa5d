#include "tests/sim/qcow2_workload.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "format/qcow2/check/check.hpp"
#include "storage/file.hpp"
#include "task/group.hpp"

namespace tidemark::sim {
namespace {

using P = Permissions;
constexpr P writes{P::consistent_read | P::write | P::resize, P::all}, reads{P::consistent_read, P::all};

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

}  // namespace

Task<> OpenImage::open(const Disk& disk) {
  BlockNode* storage = co_await file_node("/a.qcow2", false);
  auto file = co_await unwrap(Edge::attach(*storage, Role::file, writes, "test"));
  Qcow2OpenOptions options;
  options.write_order = disk.order;
  options.data_file_follows = true;
  options.caches.l2 = options.caches.refcount = 0;       // the least there is
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

Task<> OpenImage::close() {
  root_.reset();
  co_await graph_.close_all();
}

Qcow2Driver& OpenImage::driver() noexcept { return dynamic_cast<Qcow2Driver&>(root_->node().driver()); }

Task<BlockNode*> OpenImage::file_node(std::string path, bool read_only) {
  FileOptions options;
  options.filename = std::move(path);
  options.read_only = read_only;
  auto driver = co_await open_file(graph_.reactor(), std::move(options));
  NodeOptions node;
  node.read_only = read_only;
  co_return co_await graph_.add(node, std::move(driver));
}

Directory::Directory() {
  const char* base = std::getenv("TMPDIR");
  path_ = std::string(base ? base : "/tmp") + "/tidemark-crash-XXXXXX";
  TM_ASSERT(::mkdtemp(path_.data()));
}

Directory::~Directory() { std::filesystem::remove_all(path_); }

Result<> ImageWorkload::check_with_qemu(const SimDisk& machine) const {
  export_file(machine, "/a.qcow2", directory_.path() + "/a.qcow2");
  if (disk_.backing) export_file(machine, "/base.raw", directory_.path() + "/base.raw");
  if (disk_.data_file) export_file(machine, "/a.data", directory_.path() + "/a.data");
  const std::string command = "cd " + directory_.path() + " && qemu-img check -f qcow2 a.qcow2 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string text;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) != 0;) text.append(buffer, n);
  const int status = ::pclose(pipe);
  constexpr int leaks_only = 3;
  const bool leaks = WIFEXITED(status) && WEXITSTATUS(status) == leaks_only;
  if (status == 0 || (leaks && !disk_.repaired)) return {};
  return Error(Errc::corrupt, "qemu-img check: " + text);
}

Task<> ImageWorkload::prepare(SimProcess& process) {
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

Task<> ImageWorkload::run(SimProcess& process) {
  OpenImage image(process.reactor());
  co_await image.open(disk_);
  const Result<> worked = co_await work(process, image).result();
  const Result<> closed = co_await image.close().result();
  co_await unwrap(worked);
  co_await unwrap(closed);
  model_.all_durable();
}

Task<> ImageWorkload::recover(SimProcess& process) {
  OpenImage image(process.reactor());
  co_await image.open(disk_);
  co_await image.close();
  if (disk_.repaired) co_await repair(process);
}

Task<> ImageWorkload::repair(SimProcess& process) {
  OpenImage image(process.reactor());
  BlockNode* storage = co_await image.file_node("/a.qcow2", false);
  auto edge = co_await unwrap(Edge::attach(*storage, Role::root, writes, "test"));
  qcow2::CheckOptions options;
  options.repair = qcow2::Repair::all;
  auto checked = co_await qcow2::check_image(*edge, std::move(options)).result();
  edge.reset();
  co_await image.close();
  const qcow2::CheckReport report = co_await unwrap(std::move(checked));
  if (report.corruptions_fixed != 0) co_await Error(Errc::corrupt, "a power cut left corruption that had to be repaired");
}

Task<> ImageWorkload::verify(SimProcess& process) {
  if (disk_.check) co_await unwrap(check_with_qemu(process.backend().world().disk()));
  OpenImage image(process.reactor());
  co_await image.open(disk_);
  AlignedBuffer content(disk_.size);
  Buffers(content.bytes()).fill_zero();
  const std::uint64_t there = std::min(disk_.size, image.edge().size());      // it may be being resized
  Result<> read = co_await image.edge().read(0, content.bytes().first(there)).result();
  if (read) read = co_await look(image).result();
  co_await image.close();
  co_await unwrap(read);
  co_await unwrap(model_.check(content.bytes()));
}

Task<> ImageWorkload::make_image(SimProcess& process) {
  OpenImage image(process.reactor());
  BlockNode* storage = co_await image.file_node("/a.qcow2", false);
  Qcow2CreateOptions options;
  options.size = disk_.size;
  options.cluster_size = disk_.cluster_size;
  options.extended_l2 = disk_.extended_l2;
  options.lazy_refcounts = disk_.lazy;
  if (disk_.data_file) options.data_file = "a.data";
  if (disk_.backing) options.backing_file = "base.raw", options.backing_format = "raw";
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

Task<> ImageWorkload::write_some(SimProcess& process, OpenImage& image) {
  constexpr std::uint64_t writers = 4;
  const std::uint64_t width = align_down(disk_.size / writers, disk_.cluster_size);
  auto body = [&](TaskGroup& group) -> Task<> {
    for (std::uint64_t w = 0; w < writers; ++w) group.spawn(write_part(image.edge(), {w * width, width}));
    co_await group.join();
  };
  co_await with_group(process.reactor(), body);
}

Task<> ImageWorkload::write_part(Edge& edge, Range part) {
  for (int i = 0; i < disk_.steps; ++i) co_await step(edge, pick(part));
}

Range ImageWorkload::pick(Range part) {
  const std::uint64_t unit = random_->chance(1, 2) ? disk_.cluster_size : SectorModel::sector;
  const std::uint64_t units = part.length / unit, at = random_->below(units);
  const std::uint64_t most = std::min<std::uint64_t>(units - at, random_->chance(1, 4) ? 20 : 4);
  return {part.offset + at * unit, (1 + random_->below(most)) * unit};
}

Task<> ImageWorkload::step(Edge& edge, Range range) {
  const std::uint64_t choice = random_->below(10);
  if (choice == 0) {
    const auto before = model_.before_flush();
    co_await edge.flush();
    model_.flushed(before);
  } else if (choice <= 3) {
    // Zeroes go by subclusters too.
    const std::uint64_t unit = choice != 1 && disk_.extended_l2 ? disk_.cluster_size / 32 : disk_.cluster_size;
    const Range whole = range.narrowed(unit);
    if (whole.empty() || (choice == 1 && !discards_zero_)) co_return;
    model_.begin(whole, 0);
    const WriteFlags flags = choice == 2 ? WriteFlags::may_unmap : WriteFlags::none;
    if (choice == 1) co_await edge.discard(whole);
    else co_await edge.write_zeroes(whole, flags);
    model_.end(whole);
  } else {
    co_await write(edge, range, choice == 4 && !disk_.data_file);
  }
}

Task<> ImageWorkload::write(Edge& edge, Range range, bool compressed) {
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

CrashPlan qcow2_crash_plan() {
  CrashPlan plan;
  // A write that stops within a table entry would tear the entry, whatever the writer does; Linux
  // stops at pages.
  plan.options.short_file_ppm = 0;
  plan.seeds = 2;
  plan.ops_max = 20;
  plan.fates = 2;
  return plan;
}

}  // namespace tidemark::sim
