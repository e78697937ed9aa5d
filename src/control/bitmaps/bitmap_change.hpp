// BitmapChange: what an action of a transaction does to bitmaps of one node, until it has taken effect or is undone: when all
// actions are ready, or, of a group (completion-mode grouped), when its jobs have ended.
//
// Invariants, while a group has not ended: what its bitmaps were is in their store, with all that was written since, so that a
// crash undoes it; nobody else changes them; undone, a bitmap is what it was, and what was written since.
#pragma once

#include "block/transaction.hpp"
#include "control/graph/homes.hpp"
#include "job/job_manager.hpp"

namespace tidemark {

class BitmapChange final : public JobTransaction::Part {
 public:
  // `group` is null for one that takes effect at once.
  BitmapChange(Homes& homes, Place& place, const JobTransaction* group)
      : homes_(homes), place_(place), group_(group ? group->id() : 0) {}
  ~BitmapChange() override;

  // At the node's place, the node at rest.

  Task<> begin(BlockNode& node);
  // It is about to be changed, or has just been added.
  void touch(NodeBitmap& bitmap);
  // How what is done is confirmed or undone.
  Transaction& steps() noexcept { return steps_; }
  // All actions are ready.  Of a group it is not confirmed yet.
  Task<> take_effect();
  // Some are not.
  Task<> undo();

  // On the main thread, of a group: its jobs have ended; what it comes to is durable if they have ended well.
  Task<> end(bool well) override;
  Reactor& home() const noexcept override { return place_.reactor; }

 private:
  struct Held {
    std::shared_ptr<NodeBitmap> bitmap;
    bool was_recording;
  };
  Task<> finish(bool well);
  BlockNode* find_owner() const;
  void take_back();
  Task<> let_go();

  Homes& homes_;
  Place& place_;
  const std::uint64_t group_;            // 0: none
  Transaction steps_;
  std::vector<Held> held_;
  std::unique_ptr<Edge> edge_;           // keeps the node, or what is in its place, at this place
};

}  // namespace tidemark
