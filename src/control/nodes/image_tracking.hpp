// ImageTracking: keeps the persistent bitmaps of a node whose image holds bitmaps itself: through crashes by a tracking
// store, where there is one, and for all other programs by the image, from one closing to the next.
//
// Invariants: from take_over() on the image holds no bitmap that anybody would believe, until all writes have ended and what
// memory has is stored there; and while the store is to be believed the image is marked, or holds the same.
// docs/decisions/0007-bitmaps-in-qcow2.md has the order and why.  Owned by its node, on the node's thread.
#pragma once

#include "block/node.hpp"
#include "format/qcow2/driver.hpp"
#include "tracking/store.hpp"

namespace tidemark {

class ImageTracking final : public NodeTracking {
 public:
  // Without a store the bitmaps survive orderly ends only, as QEMU's do.
  ImageTracking(BlockNode& node, Qcow2Driver& image, std::unique_ptr<tracking::TrackingStore> store)
      : node_(node), image_(image), store_(std::move(store)) {}

  // Before anything is written.
  Task<> take_over();

  bool admitted(Range range) noexcept override { return !store_ || store_->admitted(range); }
  Task<> admit(Range range) override;
  bool survives_crashes() const noexcept override { return store_ != nullptr; }
  void resized(std::uint64_t size) noexcept override;
  Task<> save() override;
  Task<> before_close() override;
  Task<> after_close() override;
  Task<> settle() override;
  bool settled() const noexcept override { return !store_ || store_->settled(); }
  void leave() noexcept override;
  void arrive(Reactor& reactor) noexcept override;
  Task<GroupKeeper> keeper() override;
  Task<> intend(std::uint64_t group, const GroupKeeper& keeper) override;
  void withdraw(std::uint64_t group) noexcept override;
  Task<> decide(std::uint64_t group, std::uint64_t recorded_as) override;
  Task<> settle_group(std::uint64_t group) override;
  void forget_group(std::uint64_t group) noexcept override;

 private:
  Task<> hand_back();

  BlockNode& node_;
  Qcow2Driver& image_;
  std::unique_ptr<tracking::TrackingStore> store_;
};

}  // namespace tidemark
