#include "filter/disk_filters.hpp"

#include <algorithm>
#include <array>

namespace tidemark {
namespace {

// Not what makes errors (blkdebug): who puts that there wants them.
constexpr std::array<std::string_view, 3> passed = {"throttle", "copy-on-read", "compress"};
constexpr std::array<std::string_view, 5> users_own = {"throttle", "copy-on-read", "compress", "copy-before-write", "blkdebug"};

bool is_one_of(const auto& names, const BlockNode& node) noexcept {
  return std::find(names.begin(), names.end(), node.driver().name()) != names.end();
}

// A backup's copy-before-write is another's than one that was added.
bool is_users_own(const BlockNode& filter) noexcept { return !filter.options().given.is_null() && is_one_of(users_own, filter); }

}  // namespace

bool is_disk(const BlockNode& node) noexcept {
  return std::all_of(node.parents().begin(), node.parents().end(), [](const Edge* user) {
    const BlockNode* const above = user->parent();
    return !above || (user->role() == Role::filtered && is_users_own(*above) && is_disk(*above));
  });
}

Edge& past_filters(Edge& edge) noexcept {
  Edge* at = &edge;
  while (is_one_of(passed, at->node())) {
    Edge* const below = at->node().child(Role::filtered);
    if (!below) break;
    at = below;
  }
  return *at;
}

}  // namespace tidemark
