// A tracked raw disk under load: writers, and an operator who does everything to its bitmaps that can be
// done, through sessions that end well, are killed or crash.
//
// What is proven: a bitmap that was acknowledged is there, and every granule whose content is not what it
// was at the bitmap's point is dirty.
#pragma once

#include <map>
#include <optional>

#include "base/random.hpp"
#include "block/graph.hpp"
#include "tests/sim/harness.hpp"
#include "tracking/store.hpp"

namespace tidemark::sim {

struct TrackedDisk {
  std::uint64_t size = 256 * KiB;
  std::uint64_t log_bytes = 4 * 4096;
  tracking::Mode mode = tracking::Mode::power;
  tracking::Rule broken = tracking::Rule::none;
  int steps = 25;                         // of each writer and of the operator, a session
  bool resize = true;
  bool sequential = false;                // writers go on where they were, so that zones open
  bool store_fails = false;               // now and then
  bool can_mark = false;                  // the image says whose store counts, as qcow2 does
  std::optional<std::uint32_t> mark{};    // that store's number
};

// A node with its store, as the daemon opens it.
class TrackedNode {
 public:
  TrackedNode(SimProcess& process, const TrackedDisk& disk) : process_(process), disk_(disk), graph_(process.reactor()) {
    graph_.listeners().tracking = [this](const std::string&, const tracking::StoreReport& report) { reports_.push_back(report); };
  }

  Task<> open();
  Task<> add_store();
  Task<> close();
  Edge& edge() noexcept { return *root_; }
  Graph& graph() noexcept { return graph_; }
  BlockNode& node() noexcept { return *node_; }
  tracking::TrackingStore* store() noexcept { return static_cast<tracking::TrackingStore*>(node_->tracking()); }
  const std::vector<tracking::StoreReport>& reports() const noexcept { return reports_; }
  bool store_failed() const noexcept;

 private:
  Task<> open_file_node();
  tracking::StoreOptions options();

  SimProcess& process_;
  const TrackedDisk& disk_;
  Graph graph_;
  BlockNode* node_ = nullptr;
  std::unique_ptr<Edge> root_;
  std::vector<tracking::StoreReport> reports_;
};

class TrackedLoad : public Workload {
 public:
  explicit TrackedLoad(TrackedDisk disk) : disk_(disk) {}

  Task<> prepare(SimProcess& process) override;
  Task<> run(SimProcess& process) override;
  Task<> recover(SimProcess& process) override;
  Task<> verify(SimProcess& process) override;

 private:
  using Content = std::vector<std::byte>;
  // What is known of a bitmap.
  struct Known {
    std::vector<Content> points;          // one of them it is about: nobody was told yet; none while it does not record
    bool told = false;                    // it is to be there
    bool leaving = false;                 // or it may be gone
  };

  Task<> session(SimProcess& process, int steps);
  Task<> work(TrackedNode& disk, int steps);
  Task<> write_some(TrackedNode& disk, std::uint64_t writer, int steps);
  Task<> write_one(TrackedNode& disk, std::uint64_t writer);
  Task<> operate(TrackedNode& disk, int steps);
  Task<> operate_once(TrackedNode& disk);
  Task<> add(TrackedNode& disk, std::string name, std::uint32_t granularity);
  Task<> clear(TrackedNode& disk, NodeBitmap& bitmap);
  Task<> clear_and_undo(TrackedNode& disk, NodeBitmap& bitmap);
  Task<> remove(TrackedNode& disk, NodeBitmap& bitmap);
  Task<> restart(TrackedNode& disk, NodeBitmap& bitmap);
  Task<> back_up(TrackedNode& disk, NodeBitmap& bitmap);
  Task<> resize(TrackedNode& disk);
  Task<> dally(TrackedNode& disk);
  Task<> acknowledge(TrackedNode& disk, std::string name);

  Content content() const;
  void break_store(SimProcess& process);
  Task<> check(TrackedNode& disk);
  Result<> check(const NodeBitmap& bitmap, const Known& known) const;
  std::optional<std::uint64_t> missing(const NodeBitmap& bitmap, const Content& point) const;

  const TrackedDisk disk_;
  SimWorld* world_ = nullptr;
  std::optional<Prng> random_;
  std::uint64_t stamp_ = 0;
  std::uint64_t limit_ = max_disk_size;                // writers stay below
  std::map<std::uint64_t, std::uint64_t> next_;        // where a sequential writer goes on
  std::map<std::string, Known> known_;
  bool store_failed_ = false;
};

}  // namespace tidemark::sim
