// blockdev-add, blockdev-del, query-named-block-nodes.
#pragma once

#include "control/graph/homes.hpp"
#include "control/graph/objects.hpp"
#include "control/nodes/node_opener.hpp"
#include "control/qmp/commands/info.hpp"
#include "control/qmp/commands/node.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class NodeCommandHandler final : public NodeCommands, public InfoCommands {
 public:
  NodeCommandHandler(Homes& homes, JobManager& jobs, const Objects& objects) : homes_(homes), jobs_(jobs), objects_(objects) {}
  Task<> blockdev_add(schema::BlockdevOptions arguments) override;
  Task<> blockdev_del(schema::BlockdevDelArguments arguments) override;
  Task<std::vector<schema::BlockDeviceInfo>> query_named_block_nodes(
      schema::QueryNamedBlockNodesArguments arguments) override;

 private:
  Homes& homes_;
  JobManager& jobs_;
  const Objects& objects_;
};

}  // namespace tidemark
