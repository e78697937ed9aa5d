#include "control/node_access.hpp"

#include "control/read_only.hpp"

namespace tidemark {

Task<> NodeAccess::make_writable(BlockNode& node) {
  const auto drained = co_await node.graph().drain(node);
  co_await set_read_only(node, false);
}

Task<> NodeAccess::make_read_only(BlockNode& node) {
  const auto drained = co_await node.graph().drain(node);
  co_await set_read_only(node, true);
}

}  // namespace tidemark
