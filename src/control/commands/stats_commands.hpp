// query-blockstats, query-block, block-set-write-threshold.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/stats.hpp"

namespace tidemark {

class StatsCommandHandler final : public StatsCommands {
 public:
  explicit StatsCommandHandler(Homes& homes) noexcept : homes_(homes) {}
  Task<std::vector<schema::BlockStats>> query_blockstats(schema::QueryBlockstatsArguments arguments) override;
  Task<std::vector<schema::BlockInfo>> query_block(schema::QueryBlockArguments arguments) override;
  Task<> block_set_write_threshold(schema::BlockSetWriteThresholdArguments arguments) override;

 private:
  Homes& homes_;
};

}  // namespace tidemark
