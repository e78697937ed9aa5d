// ChainAccess: what jobs on backing chains ask of who has opened the nodes.
#pragma once

#include <string>

#include "block/node.hpp"
#include "task/task.hpp"

namespace tidemark {

// Called on the nodes' thread; outlives the jobs.
class ChainAccess {
 public:
  // A node that is only read becomes writable, with what it stands on; read-only again by the other.  The node
  // need not be drained.  On error it is as it was.
  virtual Task<> make_writable(BlockNode& node) = 0;
  virtual Task<> make_read_only(BlockNode& node) = 0;
  // The image gives up what it holds there, in whole clusters: what is below it shows, which is the same, durably.
  virtual Task<> uncover(BlockNode& image, Range range) = 0;
  // Much that it has freed by that goes back to the file system, while guests go on; by default when the image sees to it.
  virtual Task<> give_back(BlockNode&) { co_return; }
  // By which an image's header leads to it as it is open, with the options that change what it reads as; by default its file's.
  virtual Task<std::string> name_to_keep(BlockNode& node);
  // Whether all that shows the node can be shown another size.
  virtual Result<> check_size_change(const BlockNode& node) = 0;

  // Ahead of bring_bitmaps(), while guests go on: what takes its time.
  virtual Task<> prepare_bitmaps(BlockNode&, BlockNode&) { co_return; }
  // The bitmaps of `from` that follow their disk are those of `to`, too, durably: it holds the same and is about to become the
  // disk.  Both are at rest.  On error `to` has those that it had.  By default there are none that follow.
  virtual Task<> bring_bitmaps(BlockNode&, BlockNode&) { co_return; }
  // It has become it.
  virtual void drop_bitmaps(BlockNode&) noexcept {}
  // Durably, as far as that can be: who opens `from` after a crash, and finds there what guests wrote to what it stands on since, must
  // not find bitmaps that do not have it.
  virtual Task<> forget_bitmaps(BlockNode&) { co_return; }

 protected:
  ~ChainAccess() = default;
};

}  // namespace tidemark
