// BlockNode::Timed: one request in a node's statistics; failed unless done() is called.
#pragma once

#include "block/node.hpp"

namespace tidemark {

class BlockNode::Timed {
 public:
  Timed(BlockNode& node, BlockStats::Counter& counter, std::uint64_t bytes) noexcept
      : in_flight_(node), node_(node), counter_(counter), bytes_(bytes), since_(node.reactor().now()) {}
  Timed(const Timed&) = delete;
  ~Timed() {
    counter_.time_ns += static_cast<std::uint64_t>((node_.reactor().now() - since_).count());
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
  BlockNode& node_;
  BlockStats::Counter& counter_;
  std::uint64_t bytes_;
  Instant since_;
  bool done_ = false;
};

}  // namespace tidemark
