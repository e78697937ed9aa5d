// BlockNode::Timed: one request in a node's statistics; failed unless done() is called.
//
// Time is taken of root users' requests only, as QEMU does: two looks at the clock cost as much as all
// else that a node does for a request.
#pragma once

#include <cerrno>

#include "block/node.hpp"

namespace tidemark {

class BlockNode::Timed {
 public:
  Timed(const Edge& via, BlockStats::Counter& counter, std::uint64_t bytes) noexcept
      : in_flight_(*via.node_),
        clock_(via.is_root() ? &via.node_->reactor() : nullptr),
        counter_(counter),
        bytes_(bytes) {
    if (clock_) since_ = clock_->now();
  }
  Timed(const Timed&) = delete;
  ~Timed() {
    if (clock_) counter_.time_ns += static_cast<std::uint64_t>((clock_->now() - since_).count());
    if (!done_) {
      ++counter_.failed;
      return;
    }
    ++counter_.operations;
    counter_.bytes += bytes_;
  }
  void done() noexcept { done_ = true; }

 private:
  InFlight in_flight_;
  Reactor* clock_;                  // of requests whose time is taken
  BlockStats::Counter& counter_;
  std::uint64_t bytes_;
  Instant since_{0};
  bool done_ = false;
};

// What was under way when a flush began is not in it, so both ends count.  What was under way when something was lost, and has
// succeeded all the same, may be lost, too: the next flush says so, for who has sent it may have been told of that one already.
class BlockNode::Changing {
 public:
  explicit Changing(Edge& via) noexcept : via_(via), node_(*via.node_), losses_(node_.losses_) { ++via.changes_; }
  Changing(const Changing&) = delete;
  ~Changing() {
    ++via_.changes_;
    if (!done_ || !lost() || !(via_.is_root() || via_.role() == Role::target)) return;
    ++via_.losses_;
    if (!via_.lost_) via_.lost_ = loss();
  }
  bool lost() const noexcept { return node_.losses_ != losses_; }
  Error loss() const { return Error(Errc::io, "node '" + node_.name() + "': a flush has failed", EIO); }
  void done() noexcept { done_ = true; }

 private:
  Edge& via_;
  const BlockNode& node_;
  const std::uint64_t losses_;     // when it began
  bool done_ = false;
};

}  // namespace tidemark
