// Commands on nodes in use: block_resize, x-blockdev-change, x-blockdev-set-iothread, x-debug-query-block-graph.
#pragma once

#include "control/graph/homes.hpp"
#include "control/qmp/commands/graph.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class GraphCommandHandler final : public GraphCommands {
 public:
  GraphCommandHandler(Homes& homes, JobManager& jobs) : homes_(homes), jobs_(jobs) {}
  Task<> block_resize(schema::BlockResizeArguments arguments) override;
  Task<> x_blockdev_change(schema::XBlockdevChangeArguments arguments) override;
  Task<> x_blockdev_set_iothread(schema::XBlockdevSetIothreadArguments arguments) override;
  Task<schema::XDbgBlockGraph> x_debug_query_block_graph() override;

 private:
  Homes& homes_;
  JobManager& jobs_;
};

}  // namespace tidemark
