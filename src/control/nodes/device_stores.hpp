// Where the bitmaps of a block device are kept when its user has named no store: a file that has one of the device's names.
#pragma once

#include <string>
#include <vector>

#include "io/file.hpp"

namespace tidemark {

inline constexpr const char* device_stores = "/var/lib/tidemark/stores";

// Of the device at that path, the surest first: of /dev/disk/by-id, and what the kernel tells.
Task<std::vector<std::string>> names_of_device(Reactor& reactor, std::string device);

// Those of all devices that are there.
Task<std::vector<std::string>> names_present(Reactor& reactor);

struct DeviceStore {
  std::string path;                       // empty: the device has no name
  // Stores that are of the same device, too, or may be, which cannot be read.  Which has all that has changed nobody knows, so none is to
  // be believed.
  std::vector<std::string> others;
  std::string unreadable;                 // why one of these cannot be read, as text; empty: they can
};

// The one that there is under any of the device's names, which come and go, or that knows the device by one of them, whatever its
// file is called; else that which is to be made, under the surest.  One that knows its device by a name that this one does not have is
// another device's, unless it is the only one, not under a name that anybody may give, and the device that it knows is away.
Task<DeviceStore> store_of_device(Reactor& reactor, std::string directory, std::vector<std::string> names);

// The names of the bitmaps that it holds; none where there is no root that says so.
Task<std::vector<std::string>> bitmaps_in_store(Reactor& reactor, std::string path);

// One of `others`, once another store counts: the names of the bitmaps that go with it.  Errc::busy when somebody has it.
Task<std::vector<std::string>> remove_other_store(Reactor& reactor, std::string path);

}  // namespace tidemark
