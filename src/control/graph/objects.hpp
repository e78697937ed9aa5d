// Objects: what object-add has made, besides the threads themselves: what iothreads were told, and throttle groups.
//
// The main thread's; groups are shared with the nodes that use them, wherever those are.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "filter/throttle_group.hpp"
#include "schema/object.hpp"

namespace tidemark {

struct Objects {
  std::map<std::string, schema::IothreadProperties> iothreads;
  std::map<std::string, std::shared_ptr<ThrottleGroup>> throttle_groups;

  bool has(const std::string& id) const { return iothreads.contains(id) || throttle_groups.contains(id); }
  std::shared_ptr<ThrottleGroup> find_group(const std::string& id) const {
    const auto found = throttle_groups.find(id);
    return found == throttle_groups.end() ? nullptr : found->second;
  }
};

}  // namespace tidemark
