// Graph: the nodes of one home reactor, their names, and drain.
//
// Drain is a set of targets: while a DrainGuard lives, requests of root users whose node can reach
// the guard's target wait.  Nothing is counted along edges, so graph changes under drain need no
// bookkeeping: what is quiesced is computed anew from the shape.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>

#include "block/node.hpp"

namespace tidemark {

class Graph {
 public:
  explicit Graph(Reactor& reactor) : reactor_(reactor), idle_(reactor), unquiesced_(reactor) {}
  Graph(const Graph&) = delete;
  ~Graph();                                         // close_all() was awaited (asserted)

  Reactor& reactor() noexcept { return reactor_; }

  BlockNode* find(std::string_view name) noexcept;
  // Errors as QEMU's: the message of bdrv_lookup_bs.
  Result<BlockNode*> lookup(std::string_view name);
  const std::list<std::unique_ptr<BlockNode>>& nodes() const noexcept { return nodes_; }

  // Takes the driver.  On error (name taken or ill-formed, permissions) the driver is closed.
  Task<BlockNode*> add(NodeOptions options, std::unique_ptr<BlockDriver> driver);

  // Closes a node that nobody uses, and its children that nobody else does and no monitor owns.
  Task<> remove(BlockNode& node);
  // After a root user has let go: removes the node unless it is used or monitor-owned.
  Task<> release(BlockNode& node);
  Task<> close_all();                               // no root users are left

  class [[nodiscard]] DrainGuard {
   public:
    DrainGuard(DrainGuard&& o) noexcept : graph_(std::exchange(o.graph_, nullptr)), place_(o.place_) {}
    DrainGuard& operator=(DrainGuard&&) = delete;
    ~DrainGuard();

   private:
    friend class Graph;
    DrainGuard(Graph& graph, std::list<BlockNode*>::iterator place) : graph_(&graph), place_(place) {}
    Graph* graph_;
    std::list<BlockNode*>::iterator place_;
  };
  // Ends when nothing is in flight in `node` and above it.
  Task<DrainGuard> drain(BlockNode& node);

  // Makes `filter` (whose Role::filtered child is `node`) the child of all other users of `node`.
  // Both are drained by the caller.  Undone by remove_filter.
  Result<> insert_filter(BlockNode& node, BlockNode& filter);
  Result<> remove_filter(BlockNode& filter);

 private:
  friend class BlockNode;
  friend class Edge;
  friend class InFlight;
  bool reaches(const BlockNode& from, const BlockNode& to) const noexcept;
  void shape_changed() noexcept;                    // recomputes who is quiesced
  Result<> check_name(std::string_view name) const;
  Task<> close_node(BlockNode& node);

  Reactor& reactor_;
  std::list<std::unique_ptr<BlockNode>> nodes_;     // in the order they were added
  std::map<std::string, BlockNode*, std::less<>> by_name_;
  std::list<BlockNode*> drained_;                   // targets
  Event idle_;                                      // a node has become idle
  Event unquiesced_;                                // look again: the edge may lead elsewhere now
  std::uint64_t next_generated_ = 0;
};

}  // namespace tidemark
