// Plans against a search of all ways to take layers out of small chains, carried out on what the layers hold.
#include "job/chain/chain_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>

#include "base/random.hpp"

namespace tidemark {
namespace {

// A layer, by what it decides of each piece, and what is in it.
struct Layer {
  bool to_go = false;
  std::vector<LayerState> states;
  std::vector<int> content;
  friend auto operator<=>(const Layer&, const Layer&) = default;
};
using Chain = std::vector<Layer>;

constexpr std::uint64_t piece = 512;
constexpr std::size_t pieces = 5;

int look(const Chain& chain, std::size_t at) {
  for (const Layer& layer : chain)
    if (layer.states[at] != LayerState::nothing) return layer.states[at] == LayerState::data ? layer.content[at] : 0;
  return 0;
}

// Layers [first, last] go into one beside them: what was moved.
std::uint64_t carry_out(Chain& chain, bool commit, std::size_t first, std::size_t last) {
  std::uint64_t moved = 0;
  Layer& into = chain[commit ? last + 1 : first - 1];
  for (std::size_t at = 0; at < pieces; ++at) {
    if (!commit && into.states[at] != LayerState::nothing) continue;
    for (std::size_t layer = first; layer <= last; ++layer) {
      const LayerState state = chain[layer].states[at];
      if (state == LayerState::nothing) continue;
      if (state == LayerState::data) moved += piece;
      into.states[at] = state;
      into.content[at] = chain[layer].content[at];
      break;
    }
  }
  chain.erase(chain.begin() + static_cast<std::ptrdiff_t>(first), chain.begin() + static_cast<std::ptrdiff_t>(last) + 1);
  return moved;
}

// The least that any sequence of such steps moves until all that are to go are gone.
std::uint64_t search(const Chain& chain, std::map<Chain, std::uint64_t>& known) {
  if (const auto found = known.find(chain); found != known.end()) return found->second;
  std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
  bool any = false;
  for (std::size_t first = 0; first < chain.size(); ++first)
    for (std::size_t last = first; last < chain.size() && chain[last].to_go; ++last)
      for (const bool commit : {false, true}) {
        any = true;
        if (commit ? last + 1 == chain.size() : first == 0) continue;
        Chain next = chain;
        const std::uint64_t moved = carry_out(next, commit, first, last), rest = search(next, known);
        if (rest != std::numeric_limits<std::uint64_t>::max()) least = std::min(least, moved + rest);
      }
  return known[chain] = any ? least : 0;
}

Chain any_chain(Prng& random, std::size_t layers) {
  using enum LayerState;
  constexpr LayerState usual[] = {nothing, nothing, data, data, zeroes};
  Chain chain(layers);
  int next = 1;
  for (Layer& layer : chain) {
    layer.to_go = random.chance(1, 2);
    for (std::size_t at = 0; at < pieces; ++at) {
      layer.states.push_back(usual[random.below(std::size(usual))]);
      layer.content.push_back(next++);
    }
  }
  return chain;
}

ChainCosts costs_of(const Chain& chain) {
  ChainCosts costs(chain.size());
  for (std::size_t at = 0; at < pieces; ++at) {
    std::vector<LayerState> states;
    for (const Layer& layer : chain) states.push_back(layer.states[at]);
    costs.add(piece, states);
  }
  return costs;
}

std::vector<bool> removed_of(const Chain& chain) {
  std::vector<bool> removed;
  for (const Layer& layer : chain) removed.push_back(layer.to_go);
  return removed;
}

TEST(ChainPlan, MovesAsLittleAsCanBe) {
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(seed);
    Prng random(seed);
    const Chain chain = any_chain(random, 1 + random.below(6));
    const std::vector<bool> removed = removed_of(chain);
    const auto plan = plan_removal(costs_of(chain), removed);
    const bool all = std::find(removed.begin(), removed.end(), false) == removed.end();
    ASSERT_EQ(plan.ok(), !all);
    if (all) continue;
    std::map<Chain, std::uint64_t> known;
    ASSERT_EQ(plan->bytes, search(chain, known));
  }
}

// Carries the steps out: the layers that are left, by their first numbers, are given.
void check_steps(Chain& chain, const ChainPlan& plan) {
  std::vector<std::size_t> names;
  for (std::size_t i = 0; i < chain.size(); ++i) names.push_back(i);
  for (const ChainStep& step : plan.steps) {
    const auto first = static_cast<std::size_t>(std::find(names.begin(), names.end(), step.first) - names.begin());
    const std::size_t last = first + (step.last - step.first);
    ASSERT_EQ(names.at(last), step.last);
    ASSERT_EQ(names.at(step.commit ? last + 1 : first - 1), step.into());
    ASSERT_EQ(carry_out(chain, step.commit, first, last), step.bytes);
    names.erase(names.begin() + static_cast<std::ptrdiff_t>(first), names.begin() + static_cast<std::ptrdiff_t>(last) + 1);
  }
}

TEST(ChainPlan, DoesWhatItSays) {
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE(seed);
    Prng random(seed);
    Chain chain = any_chain(random, 2 + random.below(7));
    chain[random.below(chain.size())].to_go = false;
    std::vector<int> before, after;
    for (std::size_t at = 0; at < pieces; ++at) before.push_back(look(chain, at));
    const auto plan = plan_removal(costs_of(chain), removed_of(chain));
    ASSERT_TRUE(plan.ok());
    std::uint64_t bytes = 0;
    for (const ChainStep& step : plan->steps) bytes += step.bytes;
    EXPECT_EQ(bytes, plan->bytes);
    ASSERT_NO_FATAL_FAILURE(check_steps(chain, *plan));
    for (std::size_t at = 0; at < pieces; ++at) after.push_back(look(chain, at));
    ASSERT_EQ(after, before);
    EXPECT_TRUE(std::none_of(chain.begin(), chain.end(), [](const Layer& layer) { return layer.to_go; }));
  }
}

TEST(ChainPlan, OneLayerAlone) {
  ChainCosts costs(3);
  using enum LayerState;
  costs.add(100, {data, data, data});
  costs.add(10, {nothing, data, nothing});
  costs.add(1, {zeroes, data, nothing});
  costs.add(1000, {nothing, nothing, data});
  EXPECT_EQ(costs.held(0), 100u);
  EXPECT_EQ(costs.pull(1), 10u);
  EXPECT_EQ(costs.commit(1), 111u);
  EXPECT_EQ(costs.pull(2), 1000u);
  const auto plan = plan_removal(costs, {false, true, false});
  ASSERT_TRUE(plan.ok());
  const ChainStep pull{false, 1, 1, 10};
  EXPECT_EQ(plan->steps, std::vector{pull});
}

TEST(ChainPlan, SeveralAreCommittedAtOnce) {
  ChainCosts costs(4);
  using enum LayerState;
  costs.add(100, {nothing, data, data, data});
  costs.add(5, {nothing, nothing, nothing, data});
  const auto plan = plan_removal(costs, {true, true, true, false});
  ASSERT_TRUE(plan.ok());
  const ChainStep commit{true, 0, 2, 100};
  EXPECT_EQ(plan->steps, std::vector{commit});
}

TEST(ChainPlan, OneLayerMustStay) {
  EXPECT_EQ(plan_removal(ChainCosts(2), {true, true}).error().message(), "One layer of the chain must stay");
  EXPECT_TRUE(plan_removal(ChainCosts(2), {false, false})->steps.empty());
}

}  // namespace
}  // namespace tidemark
