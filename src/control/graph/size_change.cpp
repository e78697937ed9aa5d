#include "control/graph/size_change.hpp"

#include <fmt/format.h>

namespace tidemark {

Result<> check_no_bitmaps_above(const BlockNode& node) {
  for (const Edge* user : node.parents()) {
    BlockNode* above = user->parent();
    const bool shows = above && (user->role() == Role::filtered || (user->role() == Role::file && above->driver().name() == "raw"));
    if (!shows) continue;
    if (!above->bitmaps().empty() || above->tracking())
      return Error(Errc::busy, fmt::format("Node '{}' cannot change: node '{}', which shows it, has bitmaps", node.name(),
                                           above->name()));
    if (auto ok = check_no_bitmaps_above(*above); !ok) return ok;
  }
  return {};
}

}  // namespace tidemark
