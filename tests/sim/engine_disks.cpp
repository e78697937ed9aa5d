// The disks that a seed makes, with their files.
#include "format/qcow2/driver.hpp"
#include "storage/file.hpp"
#include "task/finally.hpp"
#include "tests/sim/engine_run.hpp"

namespace tidemark::sim {
namespace {

DiskPlan plan_disk(std::size_t number, Prng& random) {
  DiskPlan plan;
  plan.node = "disk" + std::to_string(number);
  plan.path = "/d/" + plan.node;
  plan.format = random.chance(1, 2) ? "raw" : "qcow2";
  plan.cluster_size = random.chance(1, 2) ? 65536 : 4096;
  if (random.chance(1, 4)) plan.tracking = random.chance(1, 2) ? "process" : "off";
  plan.backing = plan.format == "qcow2" && random.chance(1, 2);
  return plan;
}

Task<> format(Graph& graph, DiskPlan plan, std::uint64_t size) {
  FileOptions options;
  options.filename = plan.path;
  auto driver = co_await open_file(graph.reactor(), std::move(options));
  NodeOptions named;
  named.monitor_owned = true;
  BlockNode* file = co_await graph.add(named, std::move(driver));
  const Permissions writes{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};
  auto edge = co_await unwrap(Edge::attach(*file, Role::root, writes, "an image being made"));
  Qcow2CreateOptions image;
  image.size = size;
  image.cluster_size = plan.cluster_size;
  if (plan.backing) {
    image.backing_file = plan.path.substr(plan.path.rfind('/') + 1) + ".base";
    image.backing_format = "raw";
  }
  const Result<> made = co_await Qcow2Driver::create(*edge, image).result();
  edge.reset();
  co_await unwrap(made);
}

Task<> make_image(Reactor& reactor, DiskPlan plan, std::uint64_t size) {
  Graph graph(reactor);
  auto close = [&graph]() -> Task<> { return graph.close_all(); };
  co_await finally(format(graph, std::move(plan), size), close);
}

void import(SimWorld& world, const std::string& path, const Stamps& stamps) {
  std::vector<std::byte> content(stamps.size() * sector);
  for (std::size_t i = 0; i < stamps.size(); ++i) fill_with(MutableBytes(content).subspan(i * sector, sector), stamps[i]);
  world.disk().import_file(path, content);
}

}  // namespace

void boot(SimWorld& world, std::uint64_t number) {
  const std::string id = "boot " + std::to_string(number) + "\n";
  world.disk().import_file("/proc/sys/kernel/random/boot_id", as_bytes(id));
  world.disk().sync_all();                         // what a restarted machine finds is durable anyway
}

Result<Machine> make_machine(SimWorld& world, Prng& random) {
  Machine machine;
  for (const char* directory : {"/d", "/b", "/scratch"}) world.disk().make_directory(directory);
  boot(world, 0);
  const std::size_t disks = 1 + random.below(3);
  for (std::size_t i = 0; i < disks; ++i) {
    const DiskPlan plan = plan_disk(i, random);
    const Stamp below = plan.backing ? ++machine.last_stamp : 0;
    const Stamps content((128 + 64 * random.below(5)) * KiB / sector, below);
    if (plan.backing) import(world, plan.path + ".base", content);
    if (plan.format == "raw") {
      import(world, plan.path, content);
    } else {
      world.disk().import_file(plan.path, {});
      SimProcess process(world, "maker");
      const Result<> made = process.run(make_image(process.reactor(), plan, content.size() * sector));
      if (!made) return made.error();
    }
    machine.disks.push_back({plan, DiskModel(content), content});
  }
  return machine;
}

}  // namespace tidemark::sim
