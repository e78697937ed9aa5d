// Graph: the nodes of one home reactor, their names, and drain.
//
// All calls are on that reactor's thread.  Several graphs are a set when they are made so: no two give
// the same name to a node that has none; that other names are unique is for their owner to see to.
// Nodes that are connected, and that nobody else uses, can change to another graph of the set.
//
// Drain is a set of targets: while a DrainGuard lives, requests of root users whose node can reach
// the guard's target wait.  Nothing is counted along edges, so graph changes under drain need no
// bookkeeping: what is quiesced is computed anew from the shape.
#pragma once

#include <atomic>
#include <list>
#include <map>
#include <memory>
#include <string>

#include "block/node.hpp"
#include "block/rules.hpp"

namespace tidemark {

class TaskGroup;
using NodeList = std::list<std::unique_ptr<BlockNode>>;

class Graph {
 public:
  explicit Graph(Reactor& reactor) : Graph(reactor, std::make_shared<std::atomic<std::uint64_t>>(0)) {}
  // One more of a set.
  Graph(Reactor& reactor, const Graph& other) : Graph(reactor, other.next_generated_) {
    listeners_ = other.listeners_;
    workings_ = other.workings_;
  }
  Graph(const Graph&) = delete;
  ~Graph();                                         // close_all() was awaited (asserted)

  Reactor& reactor() noexcept { return reactor_; }
  // What nodes tell of, by name, on this graph's thread.  Graphs of the set that are made later have them, too.
  struct Listeners {
    TrackingListener tracking;
    std::function<void(const std::string& node, std::uint64_t threshold, std::uint64_t exceeded)> threshold;    // by so many bytes
    std::function<void(const std::string& node, const ImageCorruption& corruption)> corruption;
  };
  Listeners& listeners() noexcept { return listeners_; }
  template <class Listener, class... What>
  void tell(const Listener Listeners::*listener, const std::string& node, const What&... what) const {
    if (listeners_.*listener) (listeners_.*listener)(node, what...);
  }

  // Before it has nodes; graphs of the set that are made later have them, too.
  void set_workings(const Workings& workings) noexcept { workings_ = workings; }
  const Workings& workings() const noexcept { return workings_; }
  bool keeps(Rule rule) const noexcept { return workings_.broken != rule; }

  // What nobody waits for any more, an operation in it that cannot be ended; the graph stays until it has ended by itself.
  Gate& left_behind() noexcept { return left_behind_; }

  // Another one when a layer of a backing chain, of any in this graph, may decide more than before; see ChainMemo.
  std::uint64_t chain_epoch() const noexcept { return chain_epoch_; }

  BlockNode* find(std::string_view name) noexcept;
  // For a command: what it finds stays, though the last user lets go of it meanwhile, until the command is over and calls unpin(),
  // which waits a second at most until it is closed.
  BlockNode* pin(std::string_view name) noexcept;
  // The same.  Errors as QEMU's: the message of bdrv_lookup_bs.
  Result<BlockNode*> lookup(std::string_view name);
  bool has_pins() const noexcept { return has_pins_; }           // from any thread
  Task<> unpin();
  const NodeList& nodes() const noexcept { return nodes_; }

  // Whether a node can be given this name now; messages are QEMU's.
  Result<> check_name(std::string_view name) const;
  // Nobody finds it by the one it had.
  Result<> rename(BlockNode& node, std::string name);
  // Takes the driver.  On error (name taken or ill-formed, permissions) the driver is closed.
  Task<BlockNode*> add(NodeOptions options, std::unique_ptr<BlockDriver> driver);

  // Closes a node that nobody uses, and its children that nobody else does and no monitor owns.  Waits
  // while another holds the node drained.
  Task<> remove(BlockNode& node);
  // After a root user has let go: removes the node unless it is used or monitor-owned, or pinned: then unpin() does it.
  Task<> release(BlockNode& node);
  Task<> close_all();                               // no root users are left
  // For when something hangs: closes side by side what a monitor owns and nobody uses, and then what nobody uses any more.
  using InUse = std::function<bool(const BlockNode&)>;
  Task<> close_unused(const InUse& in_use);

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
  Task<DrainGuard> drain(BlockNode& node, CancelToken token = {});
  // Fails with Errc::timed_out when that takes longer: guests wait meanwhile, and a request in flight may hang for ever.
  Task<DrainGuard> drain_within(BlockNode& node, Duration limit = drain_max);
  static constexpr Duration drain_max = std::chrono::seconds(30);

  // Held by who changes bitmaps, until that has taken effect or is undone, and by who takes them to another node, so that neither comes
  // in the midst of the other.  Who waits for it with a node drained keeps guests waiting for a transaction, whose nodes are drained, too.
  Mutex& bitmap_changes() noexcept { return bitmap_changes_; }

  // Ends what a peer keeps in flight in `node` and what it stands on, but for backing files.  For when
  // nobody wants it any more: what was being written may or may not have been.
  Task<> cancel_in_flight(BlockNode& node);
  // For the end of it all: also what is being opened, and what is opened from here on.
  Task<> cancel_all_in_flight();
  // For drivers being opened that wait for a peer.
  CancelToken openings() noexcept { return openings_.token(); }

  // Makes `to` what all users of `from` use instead, but for those that `to` stands on: a filter or an overlay goes
  // in between so, and out again by the reverse.  Both are drained by the caller.  On error nothing has changed.
  Result<> replace(BlockNode& from, BlockNode& to);
  // What the overlay stands on from here on; null: nothing.  The file's header keeps its name, see
  // BlockDriver::write_backing_name.  All of them are drained by the caller.  On error nothing has changed.
  Result<> set_backing(BlockNode& overlay, BlockNode* backing);

  // Whether `node` is `below`, or stands on it.
  bool stands_on(const BlockNode& node, const BlockNode& below) const noexcept { return reaches(node, below); }

  // A node is only read from now on, or written too; drained by the caller.  What it has for itself, and stores its content
  // in, follows.  On error all is as it was.  Who has tracking sees to that (control/nodes/read_only.hpp).
  Task<> set_read_only(BlockNode& node, bool read_only);
  // Whether it can be: nobody writes to it.
  Result<> check_no_writer(const BlockNode& node) const;

  // A node that is only read and drained by the caller: see BlockDriver::set_active.  Who uses an inactive one asks for no
  // permissions, and what it reads may not be of one moment; what an active one stands on is active.  On error all is as it was.
  Task<> set_active(BlockNode& node, bool active);
  // What its driver asks of its children is another now.  On error they are as they were, and it has to ask for that again.
  static Result<> refresh_permissions(BlockNode& node);
  // What it shows, and perhaps its size, is another's now; drained by the caller, who sees to its bitmaps.
  void content_replaced(BlockNode& node) noexcept;
  // Another driver instead, with the same children; drained by the caller.  The old one is closed.
  Task<> exchange(BlockNode& node, std::unique_ptr<BlockDriver> driver);

  // To another graph, in the graph's own thread each: out of this one, with all that is connected to the
  // node, once nothing is in flight there; then into the other.  Errc::busy when anybody but nodes uses
  // one of them, or is about to: nothing has changed then.
  std::vector<BlockNode*> connected(BlockNode& node) const;
  Result<> check_movable(BlockNode& node) const;
  Task<NodeList> take_out(BlockNode& node);
  void put_in(NodeList nodes);

 private:
  friend class BlockNode;
  friend class Edge;
  friend class InFlight;
  Graph(Reactor& reactor, std::shared_ptr<std::atomic<std::uint64_t>> next_generated)
      : reactor_(reactor), idle_(reactor), unquiesced_(reactor), bitmap_changes_(reactor), left_behind_(reactor),
        next_generated_(std::move(next_generated)) {}
  bool reaches(const BlockNode& from, const BlockNode& to) const noexcept;
  void shape_changed() noexcept;                    // recomputes who is quiesced, and who is stood on
  void look_for_layers() noexcept;
  static void refresh_limits(BlockNode& node);      // and of what stands on it
  Task<> close_node(BlockNode& node);
  void begin_to_close(TaskGroup& group, const InUse& in_use);
  Task<> close_and_go_on(BlockNode& node, TaskGroup& group, const InUse& in_use);
  Task<> end_writing(BlockNode& node);
  Task<> begin_writing(BlockNode& node);
  // What users may ask of it follows; on error it is as it was.
  static Result<> change(BlockNode& node, bool NodeOptions::*option, bool value);

  Reactor& reactor_;
  CancelSource openings_;
  std::atomic<bool> has_pins_ = false;
  NodeList nodes_;                                  // in the order they were added
  std::map<std::string, BlockNode*, std::less<>> by_name_;
  std::list<BlockNode*> drained_;                   // targets
  Event idle_;                                      // a node has become idle
  Event unquiesced_;                                // look again: the edge may lead elsewhere now
  Mutex bitmap_changes_;
  Gate left_behind_;
  std::shared_ptr<std::atomic<std::uint64_t>> next_generated_;     // the set's
  std::uint64_t chain_epoch_ = 1;
  Listeners listeners_;
  Workings workings_;
};

}  // namespace tidemark
