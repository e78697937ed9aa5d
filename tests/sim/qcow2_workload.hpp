// What crash tests of qcow2 have in common: an image on a simulated machine, writers that fill it side by side, and the
// promises that hold after a power cut: every flushed byte is there, no sector holds what was never written to it, and
// qemu-img check finds leaked clusters at most.
#pragma once

#include "base/random.hpp"
#include "block/graph.hpp"
#include "format/qcow2/driver.hpp"
#include "tests/sim/harness.hpp"
#include "tests/sim/sector_model.hpp"

namespace tidemark::sim {

struct Disk {
  std::uint64_t cluster_size = 4096;
  std::uint64_t size = 1 * MiB;
  bool backing = true;
  bool extended_l2 = false, data_file = false, lazy = false;
  int steps = 12;                       // of each writer
  bool check = true;                    // let qemu-img look at it too
  bool repaired = false;                // after the power cut; then nothing is leaked either
  qcow2::WriteOrder order = qcow2::WriteOrder::standard();
};

// An image opened on a process's machine, and everything below it.
class OpenImage {
 public:
  explicit OpenImage(Reactor& reactor) : graph_(reactor) {}

  Task<> open(const Disk& disk);
  Task<> close();
  Edge& edge() noexcept { return *root_; }
  Qcow2Driver& driver() noexcept;
  Graph& graph() noexcept { return graph_; }
  Task<BlockNode*> file_node(std::string path, bool read_only);

 private:
  Graph graph_;
  std::unique_ptr<Edge> root_;
};

// A directory that goes with the test, for qemu-img.
class Directory {
 public:
  Directory();
  Directory(const Directory&) = delete;
  ~Directory();
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

class ImageWorkload : public Workload {
 public:
  explicit ImageWorkload(Disk disk) : disk_(disk), model_(disk.size) {}

  Task<> prepare(SimProcess& process) override;
  Task<> run(SimProcess& process) override;
  Task<> recover(SimProcess& process) override;
  Task<> verify(SimProcess& process) override;

 protected:
  // What is done between opening and closing the image.
  virtual Task<> work(SimProcess& process, OpenImage& image) = 0;
  // What else holds of the image after the power cut.
  virtual Task<> look(OpenImage&) { co_return; }

  // Writers side by side, each on its own part of the disk.
  Task<> write_some(SimProcess& process, OpenImage& image);
  const Disk disk_;
  SectorModel model_;
  std::optional<Prng> random_;
  bool discards_zero_ = true;           // not in version 2 over a backing file

 private:
  Task<> make_image(SimProcess& process);
  Task<> write_part(Edge& edge, Range part);
  Range pick(Range part);
  Task<> step(Edge& edge, Range range);
  Task<> write(Edge& edge, Range range, bool compressed);
  Task<> repair(SimProcess& process);
  Result<> check_with_qemu(const SimDisk& machine) const;

  Directory directory_;
};

CrashPlan qcow2_crash_plan();

template <class W>
testing::AssertionResult survives(Disk disk) {
  return survives_crashes([disk] { return std::make_unique<W>(disk); }, qcow2_crash_plan());
}
// A rule that is missing is found out.
template <class W>
void expect_caught(const qcow2::WriteOrder& order, Disk disk) {
  disk.order = order;
  CrashPlan many = qcow2_crash_plan();
  many.seeds = 50;
  const CrashReport report = try_crashes([disk] { return std::make_unique<W>(disk); }, many);
  ASSERT_TRUE(report.failure.has_value()) << report.cases << " cases";
}

}  // namespace tidemark::sim
