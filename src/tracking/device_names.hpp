// Names by which a block device is known again: links in /dev/disk/by-id, which udev makes one after another, and the same and more
// from what the kernel tells of the device, which is there as soon as the device is.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/block_device.hpp"
#include "io/file.hpp"

namespace tidemark::tracking {

// What a name tells, the surest first.
enum class Telling : std::uint8_t {
  made,          // it belongs to this device alone, and not to one that is made anew
  identified,    // a model and a serial number
  named,         // what somebody called it, or what is written on it
  nothing
};
Telling telling_of(std::string_view name);

// The surest first, each once.
std::vector<std::string> surest_first(std::vector<std::string> names);

// By what the kernel tells in the device's directory of sysfs (/sys/dev/block/MAJOR:MINOR); as udev calls it where udev has a name for
// the same.  A device whose content does not outlast the host, or that nothing but its place tells from others, has none.  `shown`: by
// a loop device, see below.
Task<std::vector<std::string>> names_by_kernel(Reactor& reactor, std::string told, std::optional<FileInfo> shown);

// The file that a loop device shows, all of it or a part, or whose partition the device is; nothing where this process does not see
// that file under the name that the kernel tells, or nothing tells it from files that had its number before.
Task<std::optional<FileInfo>> file_of_loop(Reactor& reactor, std::string told, std::string device);
// The same of one that is known.
Task<std::optional<FileInfo>> file_seen(Reactor& reactor, std::string told, LoopFile shown);

// The directory of sysfs of a device.
std::string told_of(const FileInfo& device);
// That of its disk, which is its own where it is no partition.
Task<std::string> disk_of(Reactor& reactor, std::string told);
// The sector of its disk at which a partition begins; 0: it is none.
Task<std::uint64_t> start_of(Reactor& reactor, std::string told);

// Of a file of sysfs or procfs; empty: not there.
Task<std::string> first_line(Reactor& reactor, std::string path);

}  // namespace tidemark::tracking
