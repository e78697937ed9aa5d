// Where the bitmaps of a block device are kept when its user has named no store: a file that has one of the device's names.
#pragma once

#include <string>
#include <vector>

#include "io/file.hpp"

namespace tidemark {

inline constexpr const char* device_stores = "/var/lib/tidemark/stores";

// Of the device at that path, the surest first: of /dev/disk/by-id, and what the kernel tells.
Task<std::vector<std::string>> names_of_device(Reactor& reactor, std::string device);

struct DeviceStore {
  std::string path;                       // empty: the device has no name
  // Stores of the same device under other names of it.  Which has all that has changed nobody knows, so none is to be believed.
  std::vector<std::string> others;
};

// The one that there is under any of the device's names, which come and go; else that which is to be made, under the surest.  A
// store under a name that anybody may give is another device's when it knows that one by a name which this one does not have.
Task<DeviceStore> store_of_device(Reactor& reactor, std::string directory, std::vector<std::string> names);

// One of `others`, once another store counts; Errc::busy when somebody has it.
Task<> remove_other_store(Reactor& reactor, std::string path);

}  // namespace tidemark
