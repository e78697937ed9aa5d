// query-blockstats, query-block, block-set-write-threshold.
#pragma once

#include "control/commands/stats.hpp"
#include "control/event_sink.hpp"
#include "control/homes.hpp"

namespace tidemark {

class StatsCommandHandler final : public StatsCommands {
 public:
  // From here on the graphs of `homes` send events to `events`; before there are threads.
  StatsCommandHandler(Homes& homes, EventSink& events);
  Task<std::vector<schema::BlockStats>> query_blockstats(schema::QueryBlockstatsArguments arguments) override;
  Task<std::vector<schema::BlockInfo>> query_block(schema::QueryBlockArguments arguments) override;
  Task<> block_set_write_threshold(schema::BlockSetWriteThresholdArguments arguments) override;

 private:
  Homes& homes_;
};

}  // namespace tidemark
