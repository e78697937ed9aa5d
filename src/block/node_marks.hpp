// BlockNode::Marks: the marks of a request that changes the disk, from before it reaches the driver on.
//
// A bitmap that begins to record while the request is under way is marked at its end, whatever became of
// it: what it changed then counts as changed since.
#pragma once

#include "block/node.hpp"

namespace tidemark {

class BlockNode::Marks {
 public:
  // Within the life of something that is in flight in the node.
  Marks(BlockNode& node, Range range, WriteFlags flags)
      : node_(node), range_(range), beginnings_(node.bitmaps_.beginnings()) {
    if (has(flags, WriteFlags::unchanged)) range_.length = 0;
    else node.bitmaps_.mark(range);
  }
  Marks(const Marks&) = delete;
  ~Marks() {
    node_.unflushed_ = true;
    if (node_.stood_on_) node_.layer_changed();
    if (beginnings_ == node_.bitmaps_.beginnings()) return;
    const Range there = range_.intersect({0, node_.size()});
    if (!there.empty()) node_.bitmaps_.mark(there);
  }

 private:
  BlockNode& node_;
  Range range_;
  std::uint64_t beginnings_;
};

}  // namespace tidemark
