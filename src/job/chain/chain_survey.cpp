#include "job/chain/chain_survey.hpp"

#include <algorithm>
#include <limits>

#include "block/graph.hpp"
#include "block/status.hpp"

namespace tidemark {
namespace {

LayerState state_of(Mapping mapping) noexcept {
  switch (mapping) {
    case Mapping::data:
    case Mapping::compressed: return LayerState::data;
    case Mapping::zero:
    case Mapping::zero_allocated: return LayerState::zeroes;
    case Mapping::below: break;
  }
  return LayerState::nothing;
}

constexpr unsigned pieces_at_once = 256;         // before guests' requests get their turn

// What a layer is known to decide, up to where.
struct Known {
  LayerState state = LayerState::nothing;
  std::uint64_t end = 0;
};

// A layer that is shorter than what is above it reads as zeroes there, whatever is below.
Task<Known> look(Edge& layer, std::uint64_t at) {
  constexpr std::uint64_t far = std::numeric_limits<std::uint64_t>::max();
  const std::uint64_t size = layer.size();
  if (at >= size) co_return Known{LayerState::zeroes, far};
  const Range wanted{at, size - at};
  const Extent extent = co_await layer.map(wanted);
  co_return Known{state_of(extent.mapping), extent.range.end()};
}

}  // namespace

Result<ChainSurvey> ChainSurvey::begin(BlockNode& top) {
  const Permissions nothing{Permissions::none, Permissions::all};
  ChainSurvey survey;
  for (BlockNode* at = &skip_filters(top); at; at = at->backing() ? &skip_filters(*at->backing()) : nullptr) {
    auto edge = Edge::attach(*at, Role::root, nothing, "a look at a chain");
    if (!edge) return edge.error();
    survey.layers_.push_back(*std::move(edge));
  }
  return survey;
}

Task<ChainCosts> ChainSurvey::run() {
  ChainCosts costs(layers_.size());
  std::vector<Known> known(layers_.size());
  std::vector<LayerState> states(layers_.size());
  Reactor& here = layers_.front()->node().reactor();
  unsigned pieces = 0;
  for (std::uint64_t at = 0; at < layers_.front()->size();) {
    if (++pieces % pieces_at_once == 0) co_await here.yield();
    std::uint64_t end = layers_.front()->size();
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      if (known[i].end <= at) known[i] = co_await look(*layers_[i], at);
      states[i] = known[i].state;
      end = std::min(end, known[i].end);
    }
    costs.add(end - at, states);
    at = end;
  }
  co_return std::move(costs);
}

Task<> ChainSurvey::end() {
  for (auto& edge : layers_) {
    BlockNode& node = edge->node();
    edge.reset();
    (void)co_await node.graph().release(node).result();
  }
  layers_.clear();
}

}  // namespace tidemark
