// Edge: one use of a node, by another node's driver or by a root user (an export, a job, a backend).
// Owned by the user; attached from construction to destruction; carries permissions and all I/O.
//
// Requests of root users wait while the node is drained; those of drivers pass, since they are part
// of requests under way above.
#pragma once

#include <memory>
#include <optional>

#include "block/debug_event.hpp"
#include "block/types.hpp"
#include "io/buffers.hpp"
#include "io/page_cache.hpp"
#include "task/task.hpp"

namespace tidemark {

// Something under way in a node: drain waits until the last one is gone.
class [[nodiscard]] InFlight {
 public:
  explicit InFlight(BlockNode& node) noexcept;
  InFlight(InFlight&& o) noexcept : node_(std::exchange(o.node_, nullptr)) {}
  InFlight& operator=(InFlight&&) = delete;
  ~InFlight();

 private:
  BlockNode* node_;
};

class Edge {
 public:
  // Checks permissions against the node's other users, through filters too; nothing changes on error.
  // `user` reads in messages: "export 'disk0'", "block job 'job0'".
  static Result<std::unique_ptr<Edge>> attach(BlockNode& child, Role role, Permissions permissions,
                                              std::string user);
  Edge(const Edge&) = delete;
  ~Edge();

  BlockNode& node() const noexcept { return *node_; }
  Role role() const noexcept { return role_; }
  bool is_root() const noexcept { return role_ == Role::root; }
  Permissions permissions() const noexcept { return permissions_; }
  // The node whose driver owns this edge; null for root users and before the driver has its node.
  BlockNode* parent() const noexcept { return parent_; }
  std::string describe_user() const;             // "node 'fmt0'", "export 'disk0'"
  std::string_view name() const noexcept;        // among its parent's children: "file", "backing"

  Result<> set_permissions(Permissions permissions);
  // A parent's: it does not mind what becomes of the child's content, since it holds itself all of it that changes; or it
  // does again.  It asks for nothing meanwhile, and shares all.
  Result<> set_indifferent(bool indifferent);
  // Points at another node instead; both are drained by the caller.  For filters and snapshots.
  Result<> retarget(BlockNode& child);

  // The node's driver hears of it.
  void tell(DebugEvent event);

  std::uint64_t size() const noexcept;
  Task<> read(std::uint64_t offset, Buffers into);
  Task<> write(std::uint64_t offset, Buffers from, WriteFlags flags = WriteFlags::none);
  Task<> write_zeroes(Range range, WriteFlags flags = WriteFlags::none);
  Task<> write_compressed(std::uint64_t offset, Buffers from);
  Task<> discard(Range range);
  // Of a root user, or to a target: fails also, once, when the storage has lost what may have been written through this edge,
  // by a flush that another has asked for, or that failed beside this one.
  Task<> flush();
  // For one of several who share the edge, and are each told: `told` is losses() when it comes, and kept for it from there on.
  Task<> flush(std::uint64_t& told);
  // How often what may have been written through this edge since its last flush was lost.
  std::uint64_t losses() const noexcept { return losses_; }
  Task<> write_back(PageCache after);            // advice, see BlockDriver; fails never
  Task<> truncate(std::uint64_t size, Growth growth = Growth::zeroes);
  Task<Extent> map(Range wanted);

  // For users whose operation is more than one request (a copy job): in flight for drain from here
  // until the holder goes; waits while drained.  Inside, use the drivers' edges, not root edges.
  Task<InFlight> enter();

 private:
  friend class BlockNode;
  friend class Graph;
  friend class PermissionUpdate;
  Edge(Role role, std::string user) : role_(role), user_(std::move(user)) {}

  BlockNode* node_ = nullptr;
  BlockNode* parent_ = nullptr;
  Role role_;
  Permissions permissions_;
  bool indifferent_ = false;
  std::uint64_t changes_ = 0, flushed_ = 0;      // begun and ended; those before the last flush that succeeded
  std::uint64_t losses_ = 0, told_ = 0;
  std::optional<Error> lost_;                    // the last one, whatever node this leads to by now
  std::string user_;
};

}  // namespace tidemark
