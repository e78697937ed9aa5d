// FreeList: clusters that the tables in memory no longer use, on their way to being used again.
//
//   added      a table changed; the file may still have the old table
//   durable    the changed table is on stable storage
//   reusable   and no request that saw the old table is in flight: the refcount may go down
//
// A run may be listed more than once: each time stands for one reference.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "block/mapped_pins.hpp"
#include "format/qcow2/layout/types.hpp"

namespace tidemark::qcow2 {

// Why clusters are freed, for whether they are discarded in the file.
enum class DiscardCause : std::uint8_t { never, request, snapshot, other };
using DiscardCauses = std::uint8_t;      // a set
template <class... Causes>
constexpr DiscardCauses causes(Causes... which) noexcept {
  return static_cast<DiscardCauses>(((1u << static_cast<unsigned>(which)) | ... | 0u));
}
constexpr bool has(DiscardCauses set, DiscardCause cause) noexcept {
  return set >> static_cast<unsigned>(cause) & 1;
}

class FreeList {
 public:
  struct Freed {
    HostRun run;
    DiscardCause cause = DiscardCause::never;
    friend constexpr bool operator==(Freed, Freed) noexcept = default;
  };

  explicit FreeList(ExtentPins& pins) noexcept : pins_(pins) {}
  FreeList(const FreeList&) = delete;

  void add(HostRun run, DiscardCause cause) {
    if (!added_.empty() && added_.back().cause == cause &&
        added_.back().run.first.index + added_.back().run.count == run.first.index)
      added_.back().run.count += run.count;
    else added_.push_back({run, cause});
  }
  bool pending() const noexcept { return !added_.empty(); }
  bool pressed() const noexcept { return added_.size() > runs_max; }
  // So much that who added it should see to it.
  bool much(std::uint64_t clusters_max) const noexcept {
    std::uint64_t clusters = 0;
    for (std::size_t i = 0; i < added_.size() && i < some_runs; ++i) clusters += added_[i].run.count;
    return added_.size() >= some_runs || clusters >= clusters_max;
  }
  // Of what is durable already, too.
  bool much_left() const noexcept {
    std::size_t runs = 0;
    for (std::size_t i = 0; i < durable_.size() && runs < some_runs; ++i) runs += durable_[i].runs.size();
    return runs >= some_runs && any_reusable();
  }
  bool empty() const noexcept { return added_.empty() && taken_.empty() && durable_.empty(); }

  // From here on none goes on its way: the counts are being copied, and a copy is to have all of held() counted.
  // No round is under way.
  void hold() {
    held_ = true;
    for (Batch& batch : std::exchange(durable_, {})) added_.insert(added_.end(), batch.runs.begin(), batch.runs.end());
  }
  const std::vector<Freed>& held() const noexcept { return added_; }
  void release() noexcept { held_ = false; }
  // The copy, without them, took the place of the counts; nothing is in flight.
  void forget() noexcept {
    held_ = false;
    added_.clear();
  }

  // The image was opened anew, and no round is under way: what is not used any more is not known.
  void forget_all() noexcept {
    forget();
    taken_.clear();
    durable_.clear();
  }

  // Begins and ends one round of the Committer: what was added before take() has become durable.
  void take() {
    if (!held_) taken_ = std::exchange(added_, {});
  }
  void settle(bool durable) {
    if (durable && !taken_.empty()) durable_.push_back({pins_.close_epoch(), std::move(taken_)});
    else added_.insert(added_.end(), taken_.begin(), taken_.end());
    taken_.clear();
  }

  // A run that is reusable now, at most so many clusters; the caller lowers its refcounts.
  std::optional<Freed> next(std::uint64_t most) {
    if (!any_reusable()) return {};
    std::vector<Freed>& runs = durable_.front().runs;
    Freed run = runs.back();
    runs.pop_back();
    if (run.run.count > most) runs.push_back({{{run.run.first.index + most}, run.run.count - most}, run.cause});
    run.run.count = std::min(run.run.count, most);
    if (runs.empty()) durable_.pop_front();
    return run;
  }
  bool none_durable() const noexcept { return durable_.empty(); }
  bool any_reusable() const noexcept { return !durable_.empty() && pins_.ended(durable_.front().epoch); }
  // It could not be done: again later.
  void put_back(Freed freed) { added_.push_back(freed); }

 private:
  static constexpr std::size_t runs_max = 65536, some_runs = 1024;
  struct Batch {
    ExtentPins::Epoch epoch;
    std::vector<Freed> runs;             // never empty
  };

  ExtentPins& pins_;
  std::vector<Freed> added_, taken_;
  std::deque<Batch> durable_;
  bool held_ = false;
};

}  // namespace tidemark::qcow2
