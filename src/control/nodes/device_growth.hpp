// A device that has grown, under the node of a user who says so (block_resize): what is there now is shown as it is.
#pragma once

#include "block/node.hpp"

namespace tidemark {

class FileDriver;

// While it lives, on the node's thread; the node is resized meanwhile.  Nothing where the node is not a device's own disk.
class DeviceGrowth {
 public:
  explicit DeviceGrowth(BlockNode& node);
  DeviceGrowth(const DeviceGrowth&) = delete;
  ~DeviceGrowth();

  // A device is as large as it is: asked for less, the node gets all of it, as QEMU's does.
  Task<std::uint64_t> size_for(std::uint64_t wanted);

 private:
  BlockNode& node_;
  FileDriver* device_ = nullptr;
};

}  // namespace tidemark
