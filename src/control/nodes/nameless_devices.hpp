// Devices that have no name by which they are known again: they may be any that is away, and get a name later.
#pragma once

#include <string>
#include <vector>

#include "io/block_device.hpp"
#include "io/file.hpp"

namespace tidemark {

// Where udev tells of itself, and of the devices whose links it has made.
inline constexpr const char* udev_directory = "/run/udev";

// While udev runs, and has not made the device's links yet, for a bounded time.
Task<> await_udev(Reactor& reactor, std::string udev, DeviceNumber device);

// Stores in that directory of devices that are away and have that size: they may be the one that is about to be written without its
// store; `of_loop`: that is a loop device, or a partition of one.  Those that somebody has open are of devices that are there, and one
// that knows no name was named by its user.
Task<std::vector<std::string>> stores_of_absent(Reactor& reactor, std::string directory, std::uint64_t size,
                                                std::vector<std::string> present, bool of_loop);

}  // namespace tidemark
