// query-chain-cost.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/chain_cost.hpp"

namespace tidemark {

class ChainCostCommandHandler final : public ChainCostCommands {
 public:
  explicit ChainCostCommandHandler(Homes& homes) : homes_(homes) {}
  Task<schema::ChainCost> query_chain_cost(schema::QueryChainCostArguments arguments) override;

 private:
  Homes& homes_;
};

// On the nodes' thread.  Layers by their nodes' names.
Task<schema::ChainCost> chain_cost(BlockNode& top, std::vector<std::string> remove);

}  // namespace tidemark
