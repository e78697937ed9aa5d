// BlockNode: one vertex of the block graph.  Adds to its driver what all have in common: bounds,
// alignment and splitting, marking of dirty bitmaps before a write is submitted, permissions, drain,
// statistics.  Used through Edges; made, found and closed through the Graph.
//
// Invariant: a write reaches the driver only after every recording bitmap has its range and, where
// the node is tracked through crashes, its NodeTracking has let it pass.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "block/driver.hpp"
#include "block/edge.hpp"
#include "block/node_bitmap.hpp"
#include "block/node_tracking.hpp"
#include "io/reactor.hpp"
#include "task/range_lock.hpp"
#include "task/sync.hpp"

namespace tidemark {

class Graph;

struct BlockStats {
  struct Counter {
    std::uint64_t operations = 0, bytes = 0, failed = 0;
    std::uint64_t time_ns = 0;      // of root users' requests
  };
  Counter read, write, write_zeroes, discard, flush;
  std::uint64_t write_highest = 0;  // the end of the furthest write
};

// What becomes of writes of nothing but zeroes (qapi: BlockdevDetectZeroesOptions).
enum class DetectZeroes : std::uint8_t { off, on, unmap };

struct NodeOptions {
  std::string name;                 // empty: a generated "#block123"
  bool read_only = false;
  bool active = true;               // false: only read, and other programs may write what it is stored in
  bool writes_when_active = false;  // read_only is because it is not active
  bool read_only_fixed = false;     // read_only was asked for: it does not follow that of who uses it
  bool monitor_owned = false;       // made by blockdev-add: stays until blockdev-del
  bool discard = true;              // "unmap"; false: discards are ignored
  DetectZeroes detect_zeroes = DetectZeroes::off;
  Json given{};                     // what it was opened with, as QMP has it; null: made by no user
  bool backing_found = false;       // what is below is what the image itself names
  bool cache_direct = false;        // shown; the driver was opened so
  bool cache_no_flush = false;      // a storage's flushes do nothing: fast, and a crash may lose what was written
  TrackingOptions tracking{};
};

class BlockNode final {
 public:
  BlockNode(const BlockNode&) = delete;
  ~BlockNode();

  const std::string& name() const noexcept { return options_.name; }
  const NodeOptions& options() const noexcept { return options_; }
  bool read_only() const noexcept { return options_.read_only; }
  bool active() const noexcept { return options_.active; }
  bool writes_when_active() const noexcept { return options_.writes_when_active; }
  void set_writes_when_active(bool writes) noexcept { options_.writes_when_active = writes; }
  BlockDriver& driver() const noexcept { return *driver_; }
  Graph& graph() const noexcept { return *graph_; }
  Reactor& reactor() const noexcept;
  std::uint64_t size() const noexcept { return align_up(driver_->size(), sector_size); }
  const BlockLimits& limits() const noexcept { return limits_; }
  const BlockStats& stats() const noexcept { return stats_; }
  NodeBitmaps& bitmaps() noexcept { return bitmaps_; }
  NodeTracking* tracking() const noexcept { return tracking_.get(); }     // null: none of its bitmaps is persistent
  // It hears of the size that the node has by now.
  void set_tracking(std::unique_ptr<NodeTracking> tracking) noexcept {
    tracking_ = std::move(tracking);
    if (tracking_) tracking_->resized(size());
  }
  // A write that reaches beyond it is told to who listens to the graph, once; 0: none is.
  std::uint64_t write_threshold() const noexcept { return write_threshold_ == no_threshold ? 0 : write_threshold_; }
  void set_write_threshold(std::uint64_t offset) noexcept { write_threshold_ = offset == 0 ? no_threshold : offset; }
  std::unique_ptr<NodeTracking> take_tracking() noexcept { return std::move(tracking_); }
  // What requests become from now on; nothing is in flight.
  void set_request_options(bool discard, DetectZeroes detect_zeroes, bool no_flush) noexcept {
    options_.discard = discard;
    options_.detect_zeroes = detect_zeroes;
    options_.cache_no_flush = no_flush;
    ignores_flush_ = no_flush && driver_->edges().empty();
  }
  // How it was described, when that has changed.
  void set_given(Json given, bool read_only_fixed) {
    options_.given = std::move(given);
    options_.read_only_fixed = read_only_fixed;
  }
  // The largest size that the disk is known to have had.
  std::uint64_t size_largest() const noexcept { return size_largest_; }
  void remember_size(std::uint64_t size) noexcept { size_largest_ = std::max(size_largest_, size); }

  const std::vector<Edge*>& parents() const noexcept { return parents_; }
  bool has_writers() const noexcept;                    // some of the parents may write
  // Some copy to it what the disk that it stands on is about to lose: they wait for who reads it, so nobody may read past it.
  bool shows_old_data() const noexcept;
  RangeLock::Guard hold_old_data(Range range) { return unit_lock_.hold(range, RangeLock::Mode::shared); }     // to be awaited
  Edge* child(Role role) const noexcept;                // null when there is none
  BlockNode* backing() const noexcept;                  // through Role::backing
  BlockNode* filtered() const noexcept;
  std::uint64_t in_flight() const noexcept { return in_flight_; }
  // What was written is durable afterwards: for who is none of its users.  They are told as if one of them had asked.
  Task<> make_durable();
  // BlockDriver::open_anew().  Users are told of what it finds lost.
  Task<> open_anew();
  // How often the storage of its content has lost something, by a flush that failed, or has shown another content since, for it was
  // opened anew.
  std::uint64_t losses() const noexcept { return losses_; }
  bool quiesced() const noexcept { return quiesced_; }
  bool closing() const noexcept { return closing_; }

 private:
  friend class Edge;
  friend class Graph;
  friend class PermissionUpdate;
  friend class InFlight;
  void layer_changed() noexcept;    // a request ends that may have put something into it
  class Timed;                      // counts a request in the statistics
  class Changing;                   // a request that changes something, in its edge
  class Marks;                      // a request's marks in the bitmaps

  BlockNode(Graph& graph, NodeOptions options, std::unique_ptr<BlockDriver> driver);

  // Requests, started through an edge.  Each waits while a root user's edge leads to a drained node,
  // and looks at the edge's node only then: a filter may have been inserted meanwhile.
  static Task<> read(Edge& via, std::uint64_t offset, Buffers into);
  static Task<> write(Edge& via, std::uint64_t offset, Buffers from, WriteFlags flags);
  static Task<> write_zeroes(Edge& via, Range range, WriteFlags flags);
  static Task<> write_compressed(Edge& via, std::uint64_t offset, Buffers from);
  static Task<> discard(Edge& via, Range range);
  static Task<> flush(Edge& via, std::uint64_t& told);
  static Task<> write_back(Edge& via, PageCache after);
  static Task<> truncate(Edge& via, std::uint64_t size, Growth growth);
  static Task<Extent> map(Edge& via, Range wanted);
  static Task<InFlight> enter(Edge& via);
  static Task<> wait_unquiesced(Edge& via);

  Result<> check_range(std::uint64_t offset, std::uint64_t length, std::string_view verb) const;
  Result<> check_writable(const Edge& via, Range range, std::string_view verb) const;
  bool admitted(Range range, WriteFlags flags) const noexcept {
    return !tracking_ || has(flags, WriteFlags::unchanged) || tracking_->admitted(range);
  }
  void note_write(Range range) noexcept {
    stats_.write_highest = std::max(stats_.write_highest, range.end());
    if (range.end() > write_threshold_) tell_threshold(range.end());
  }
  void tell_threshold(std::uint64_t end) noexcept;
  void listen_to_driver();
  void tell_lost(const Error& why) noexcept;
  void tell_shown_anew() noexcept;
  bool flush_under_way() const noexcept;                // of this node, or of what its flush goes to
  Task<> put(std::uint64_t offset, Buffers from, WriteFlags flags);
  Task<> put_durably(std::uint64_t offset, Buffers from, WriteFlags flags);
  Task<> wait_admitted(Range range);
  bool simple(std::uint64_t offset, const Buffers& data) const noexcept;
  Task<> read_bounced(std::uint64_t offset, Buffers into);
  Task<> write_locked(std::uint64_t offset, Buffers from, WriteFlags flags);
  Task<> write_bounced(std::uint64_t offset, Buffers from, WriteFlags flags);
  Task<> write_split(std::uint64_t offset, Buffers from, WriteFlags flags);
  Task<> zero_whole(Range range, WriteFlags flags);
  Task<> zero_by_writing(Range range, WriteFlags flags);
  std::size_t transfer_max() const noexcept;

  Graph* graph_;
  Home home_;
  NodeOptions options_;
  std::unique_ptr<BlockDriver> driver_;
  BlockLimits limits_;
  BlockStats stats_;
  static constexpr std::uint64_t no_threshold = ~std::uint64_t{0};
  std::uint64_t write_threshold_ = no_threshold;
  NodeBitmaps bitmaps_;
  std::unique_ptr<NodeTracking> tracking_;
  std::vector<Edge*> parents_;
  std::uint64_t in_flight_ = 0, losses_ = 0, flushing_ = 0;
  std::uint64_t size_largest_;      // ever: growth up to here marks, beyond it is clean
  RangeLock unit_lock_;             // read-modify-write of request_align units against other writes
  bool quiesced_ = false;
  bool stood_on_ = false;           // a backing file of others, or what a filter shows that is one
  bool closing_ = false;
  bool pinned_ = false;             // see Graph::pin
  bool to_release_ = false;         // once it is not
  bool unflushed_ = false;          // something has changed since the last flush began
  bool ignores_flush_;
};

}  // namespace tidemark
