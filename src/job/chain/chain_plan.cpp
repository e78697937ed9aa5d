#include "job/chain/chain_plan.hpp"

#include <algorithm>
#include <optional>

namespace tidemark {
namespace {

// Layers to be removed that lie together: those before `split` are pulled, the others committed.
struct Run {
  std::size_t first, last;
  std::size_t length() const noexcept { return last - first + 1; }
};

std::vector<Run> runs_of(const std::vector<bool>& removed) {
  std::vector<Run> runs;
  for (std::size_t i = 0; i < removed.size(); ++i) {
    if (!removed[i]) continue;
    if (i != 0 && removed[i - 1]) runs.back().last = i;
    else runs.push_back({i, i});
  }
  return runs;
}

struct Cost {
  std::uint64_t bytes = 0, steps = 0;
  friend auto operator<=>(const Cost&, const Cost&) = default;
};

// What is committed from the run above is in the layer that this one is pulled into by then: commits come first, and hide.
class Planner {
 public:
  Planner(const ChainCosts& costs, std::vector<Run> runs) : costs_(costs), runs_(std::move(runs)) {}

  ChainPlan plan() {
    // best_[run][split]: of the runs up to this one, with the split before that leads there.
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      best_.emplace_back(runs_[i].length() + 1);
      for (std::size_t split = 0; split <= runs_[i].length(); ++split) find_best(i, split);
    }
    return trace();
  }

 private:
  struct Best {
    std::optional<Cost> cost;            // none: it cannot be done so
    std::size_t split_above = 0;
  };

  // Of what is pulled from a run into the layer above, seen from where that layer is filled down to by then.
  ChainStep pulled(std::size_t run, std::size_t split, std::size_t from) const {
    const Run& r = runs_[run];
    const std::size_t last = r.first + split - 1;
    return {false, r.first, last, costs_.seen(from, r.first, last)};
  }
  ChainStep committed(std::size_t run, std::size_t split) const {
    const Run& r = runs_[run];
    return {true, r.first + split, r.last, costs_.seen(r.first + split, r.first + split, r.last)};
  }
  bool possible(std::size_t run, std::size_t split) const noexcept {
    const Run& r = runs_[run];
    return (split == 0 || r.first != 0) && (split == r.length() || r.last + 1 != costs_.layers());
  }
  bool adjoins_above(std::size_t run) const noexcept { return run != 0 && runs_[run - 1].last + 2 == runs_[run].first; }
  // From which layer one sees what is pulled, when the run above is split there.
  std::size_t seen_from(std::size_t run, std::size_t split_above) const noexcept {
    const std::size_t into = runs_[run].first - 1;
    return adjoins_above(run) ? std::min(into, runs_[run - 1].first + split_above) : into;
  }

  void find_best(std::size_t run, std::size_t split) {
    if (!possible(run, split)) return;
    Best& best = best_[run][split];
    const std::size_t splits_above = run == 0 ? 1 : best_[run - 1].size();
    for (std::size_t above = 0; above < splits_above; ++above) {
      Cost cost;
      if (run != 0) {
        if (!best_[run - 1][above].cost) continue;
        cost = *best_[run - 1][above].cost;
      }
      if (split != 0) cost = plus(cost, pulled(run, split, run == 0 ? runs_[run].first - 1 : seen_from(run, above)));
      if (split != runs_[run].length()) cost = plus(cost, committed(run, split));
      if (!best.cost || cost < *best.cost) best = {cost, above};
    }
  }
  static Cost plus(Cost cost, const ChainStep& step) noexcept { return {cost.bytes + step.bytes, cost.steps + 1}; }

  ChainPlan trace() const {
    ChainPlan plan;
    if (runs_.empty()) return plan;
    std::vector<std::size_t> splits(runs_.size());
    const auto& last = best_.back();
    for (std::size_t split = 0; split < last.size(); ++split)
      if (last[split].cost && (!last[splits.back()].cost || *last[split].cost < *last[splits.back()].cost)) splits.back() = split;
    for (std::size_t i = runs_.size() - 1; i > 0; --i) splits[i - 1] = best_[i][splits[i]].split_above;
    for (std::size_t i = 0; i < runs_.size(); ++i)
      if (splits[i] != runs_[i].length()) plan.steps.push_back(committed(i, splits[i]));
    for (std::size_t i = 0; i < runs_.size(); ++i)
      if (splits[i] != 0) plan.steps.push_back(pulled(i, splits[i], i == 0 ? runs_[i].first - 1 : seen_from(i, splits[i - 1])));
    for (const ChainStep& step : plan.steps) plan.bytes += step.bytes;
    return plan;
  }

  const ChainCosts& costs_;
  const std::vector<Run> runs_;
  std::vector<std::vector<Best>> best_;
};

}  // namespace

void ChainCosts::add(std::uint64_t bytes, const std::vector<LayerState>& states) {
  TM_ASSERT(states.size() == layers_);
  std::size_t above = 0;
  for (std::size_t layer = 0; layer < layers_; ++layer) {
    if (states[layer] == LayerState::data) hidden_by(above, layer) += bytes;
    if (states[layer] != LayerState::nothing) above = layer + 1;
  }
}

// What decides above is above `from`, or there is none.
std::uint64_t ChainCosts::seen(std::size_t from, std::size_t first, std::size_t last) const noexcept {
  std::uint64_t bytes = 0;
  for (std::size_t layer = first; layer <= last; ++layer)
    for (std::size_t above = 0; above <= from; ++above) bytes += seen_[layer * (layers_ + 1) + above];
  return bytes;
}

Result<ChainPlan> plan_removal(const ChainCosts& costs, const std::vector<bool>& removed) {
  TM_ASSERT(removed.size() == costs.layers());
  if (std::find(removed.begin(), removed.end(), false) == removed.end())
    return Error(Errc::invalid_argument, "One layer of the chain must stay");
  return Planner(costs, runs_of(removed)).plan();
}

}  // namespace tidemark
