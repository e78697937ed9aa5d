// FreeList: clusters that the tables in memory no longer use, on their way to being used again.
//
//   added      a table changed; the file may still have the old table
//   durable    the changed table is on stable storage
//   reusable   and no request that saw the old table is in flight: the refcount may go down
//
// A run may be listed more than once: each time stands for one reference.
#pragma once

#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "block/mapped_pins.hpp"
#include "format/qcow2/types.hpp"

namespace tidemark::qcow2 {

class FreeList {
 public:
  explicit FreeList(ExtentPins& pins) noexcept : pins_(pins) {}
  FreeList(const FreeList&) = delete;

  void add(HostRun run) {
    if (!added_.empty() && added_.back().first.index + added_.back().count == run.first.index)
      added_.back().count += run.count;
    else added_.push_back(run);
  }
  bool pending() const noexcept { return !added_.empty(); }
  bool pressed() const noexcept { return added_.size() > runs_max; }
  bool empty() const noexcept { return added_.empty() && taken_.empty() && durable_.empty(); }

  // Begins and ends one round of the Committer: what was added before take() has become durable.
  void take() { taken_ = std::exchange(added_, {}); }
  void settle(bool durable) {
    if (durable && !taken_.empty()) durable_.push_back({pins_.close_epoch(), std::move(taken_)});
    else added_.insert(added_.end(), taken_.begin(), taken_.end());
    taken_.clear();
  }

  // A run that is reusable now; the caller lowers its refcounts.
  std::optional<HostRun> next() {
    if (durable_.empty() || !pins_.ended(durable_.front().epoch)) return {};
    std::vector<HostRun>& runs = durable_.front().runs;
    const HostRun run = runs.back();
    runs.pop_back();
    if (runs.empty()) durable_.pop_front();
    return run;
  }
  bool none_durable() const noexcept { return durable_.empty(); }
  // It could not be done: again later.
  void put_back(HostRun run) { added_.push_back(run); }

 private:
  static constexpr std::size_t runs_max = 65536;
  struct Batch {
    ExtentPins::Epoch epoch;
    std::vector<HostRun> runs;           // never empty
  };

  ExtentPins& pins_;
  std::vector<HostRun> added_, taken_;
  std::deque<Batch> durable_;
};

}  // namespace tidemark::qcow2
