// PermissionUpdate: a change of who uses a node, carried down through the graph.  Undone on
// destruction unless commit() was called, so a conflict anywhere leaves everything as it was.
#pragma once

#include <utility>
#include <vector>

#include "block/edge.hpp"

namespace tidemark {

class PermissionUpdate {
 public:
  PermissionUpdate() = default;
  PermissionUpdate(const PermissionUpdate&) = delete;
  ~PermissionUpdate();

  void set(Edge& edge, Permissions permissions);
  void move(Edge& edge, BlockNode* to);           // from one node's users to another's, or to none's
  Result<> refresh(BlockNode& node);              // checks the node's users, recomputes its children
  void commit() noexcept;                         // and tells drivers whose last writer has gone

 private:
  struct Old {
    Edge* edge;
    Permissions permissions;
    BlockNode* node;
  };
  void link(Edge& edge, BlockNode* to);
  std::vector<Old> undo_;
};

}  // namespace tidemark
