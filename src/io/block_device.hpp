// What the kernel tells of a block device by its node in /dev, whatever that is called.
#pragma once

#include <optional>
#include <string>

#include "io/reactor.hpp"

namespace tidemark {

struct DeviceNumber {
  std::uint32_t major = 0, minor = 0;
  friend bool operator==(const DeviceNumber&, const DeviceNumber&) = default;
};
// Of the block device that a path leads to, which is not opened; nothing where there is none.  Blocks the thread for as long as
// looking up a name takes.
std::optional<DeviceNumber> number_of_device(const std::string& path);

// The file that a loop device shows, in the kernel's own words: by the path that it had for whoever attached it another file may be
// there for this process.
struct LoopFile {
  std::uint64_t device = 0, inode = 0;    // as in FileInfo
};
// Of a loop device, or of a partition of one; nothing where it is neither, or cannot be asked.
Task<std::optional<LoopFile>> file_of_loop_device(Reactor& reactor, std::string path);

}  // namespace tidemark
