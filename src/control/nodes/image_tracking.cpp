#include "control/nodes/image_tracking.hpp"

#include <fmt/format.h>

#include "block/graph.hpp"
#include "control/nodes/image_bitmaps.hpp"

namespace tidemark {

Task<> ImageTracking::take_over() {
  // A store that is not there is not to be believed from here on.
  if (store_) co_await image_.set_tracked(store_->mark());
  else co_await image_.set_untracked();
  co_await image_.use_bitmaps();
}

Task<> ImageTracking::admit(Range range) {
  if (store_) co_await store_->admit(range);
}

void ImageTracking::resized(std::uint64_t size) noexcept {
  if (store_) store_->resized(size);
}

Task<> ImageTracking::save() {
  if (store_) co_return co_await store_->save();
  const tracking::Losses losses = tracking::released_losses(node_.bitmaps());
  co_await node_.make_durable();
  tracking::forget(node_.bitmaps(), losses);
}

Task<> ImageTracking::before_close() {
  Result<> kept;
  if (store_) kept = co_await store_->before_close().result();
  else kept = co_await save().result();
  const Result<> handed = co_await hand_back().result();
  if (!handed) {
    const std::string message = fmt::format("the bitmaps of node '{}' could not be stored in its image: {}", node_.name(),
                                            handed.error().message());
    const TrackingReport report{TrackingReport::Kind::failed, message};
    node_.graph().tell(&Graph::Listeners::tracking, node_.name(), report);
    co_await Error(handed.error().code(), message);
  }
  co_await unwrap(kept);
}

// The mark goes last: until then the store counts, whatever has become of this.
Task<> ImageTracking::hand_back() {
  const std::uint64_t digest = co_await store_image_bitmaps(node_, image_);
  if (image_.tracked()) co_await image_.set_untracked();
  if (store_) store_->closed_with(digest);
}

Task<> ImageTracking::after_close() {
  if (store_) co_await store_->after_close();
}

Task<> ImageTracking::settle() {
  if (store_) co_await store_->settle();
}

Task<GroupKeeper> ImageTracking::keeper() {
  if (!store_) co_return GroupKeeper();
  co_return co_await store_->keeper();
}

Task<> ImageTracking::intend(std::uint64_t group, const GroupKeeper& keeper) {
  if (store_) co_await store_->intend(group, keeper);
}

void ImageTracking::withdraw(std::uint64_t group) noexcept {
  if (store_) store_->withdraw(group);
}

Task<> ImageTracking::decide(std::uint64_t group, std::uint64_t recorded_as) {
  if (store_) co_return co_await store_->decide(group, recorded_as);
  co_await settle_group(group);
}

Task<> ImageTracking::settle_group(std::uint64_t group) {
  if (store_) co_return co_await store_->settle_group(group);
  node_.bitmaps().group_decided(group);
}

void ImageTracking::forget_group(std::uint64_t group) noexcept {
  if (store_) store_->forget_group(group);
}

void ImageTracking::leave() noexcept {
  if (store_) store_->leave();
}

void ImageTracking::arrive(Reactor& reactor) noexcept {
  if (store_) store_->arrive(reactor);
}

}  // namespace tidemark
