#include "control/commands/chain_cost_commands.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "control/graph/file_names.hpp"
#include "job/chain/chain_survey.hpp"

namespace tidemark {
namespace {

using Layers = std::vector<schema::ChainLayerCost>;

Result<std::vector<bool>> find_layers(const Layers& layers, const std::vector<std::string>& names) {
  std::vector<bool> found(layers.size());
  for (const std::string& name : names) {
    const auto layer = std::find_if(layers.begin(), layers.end(), [&](const auto& one) { return one.node_name == name; });
    if (layer == layers.end())
      return Error(Errc::not_found, fmt::format("Node '{}' is no layer of the chain of '{}'", name, layers.front().node_name));
    found[static_cast<std::size_t>(layer - layers.begin())] = true;
  }
  return found;
}

Task<schema::ChainLayerCost> describe(BlockNode& node, const ChainCosts& costs, std::size_t layer) {
  schema::ChainLayerCost described;
  described.node_name = node.name();
  described.filename = co_await name_to_keep_of(node);
  described.driver = schema::parse_enum<schema::BlockdevDriver>(node.driver().name()).value();
  described.virtual_size = node.size();
  described.bytes = costs.held(layer);
  if (layer != 0) described.pull = costs.pull(layer);
  if (layer + 1 != costs.layers()) described.commit = costs.commit(layer);
  co_return std::move(described);
}

schema::ChainCostStep describe(const ChainStep& step, const Layers& layers) {
  schema::ChainCostStep described;
  described.action = step.commit ? schema::ChainAction::commit : schema::ChainAction::pull;
  for (std::size_t i = step.first; i <= step.last; ++i) described.layers.push_back(layers[i].node_name);
  described.into = layers[step.into()].node_name;
  described.bytes = step.bytes;
  return described;
}

Task<schema::ChainCost> survey(ChainSurvey& chain, const std::vector<std::string>& remove) {
  const ChainCosts costs = co_await chain.run();
  schema::ChainCost cost;
  for (std::size_t i = 0; i < costs.layers(); ++i) cost.layers.push_back(co_await describe(chain.layers()[i]->node(), costs, i));
  const std::vector<bool> removed = co_await unwrap(find_layers(cost.layers, remove));
  const ChainPlan plan = co_await unwrap(plan_removal(costs, removed));
  for (const ChainStep& step : plan.steps) cost.steps.push_back(describe(step, cost.layers));
  cost.bytes = plan.bytes;
  co_return std::move(cost);
}

Task<schema::ChainCost> cost_of(Graph& graph, std::string name, std::vector<std::string> remove) {
  BlockNode* top = co_await unwrap(graph.lookup(name));
  co_return co_await chain_cost(*top, std::move(remove));
}

}  // namespace

Task<schema::ChainCost> chain_cost(BlockNode& top, std::vector<std::string> remove) {
  ChainSurvey chain = co_await unwrap(ChainSurvey::begin(top));
  auto cost = co_await survey(chain, remove).result();
  co_await chain.end();
  co_return co_await unwrap(std::move(cost));
}

Task<schema::ChainCost> ChainCostCommandHandler::query_chain_cost(schema::QueryChainCostArguments arguments) {
  Place* place = co_await homes_.lookup(arguments.node_name);
  std::vector<std::string> remove = std::move(arguments.remove).value_or(std::vector<std::string>());
  co_return co_await homes_.at(*place, cost_of(place->graph, arguments.node_name, std::move(remove)));
}

}  // namespace tidemark
