#include "control/nodes/device_growth.hpp"

#include <algorithm>

#include "storage/file_driver.hpp"

namespace tidemark {
namespace {

// Whose disk a node shows, when it is not its own; null when it is.
BlockNode* shown_by(const BlockNode& node) {
  Edge* const file = node.driver().name() == "raw" ? node.child(Role::file) : nullptr;
  return file ? &file->node() : node.filtered();
}

FileDriver* device_below(BlockNode& node) {
  BlockNode* at = &node;
  while (BlockNode* const shown = shown_by(*at)) at = shown;
  auto* const file = dynamic_cast<FileDriver*>(&at->driver());
  return file && file->is_device() ? file : nullptr;
}

}  // namespace

DeviceGrowth::DeviceGrowth(BlockNode& node) : node_(node), device_(device_below(node)) {
  if (device_) device_->grow_as_it_is(true);
}

DeviceGrowth::~DeviceGrowth() {
  if (device_) device_->grow_as_it_is(false);
}

Task<std::uint64_t> DeviceGrowth::size_for(std::uint64_t wanted) {
  if (!device_) co_return wanted;
  const std::uint64_t before_disk = device_->size() - std::min(device_->size(), node_.size());      // raw's offset
  const std::uint64_t there = co_await device_->device_size();
  // What is there is no news to the device, but it is to the disk: bitmaps mark it.
  if (there > device_->size())
    for (BlockNode* at = &node_; at; at = shown_by(*at)) at->remember_size(there);
  co_return std::max(wanted, there - std::min(there, before_disk));
}

}  // namespace tidemark
