// A node whose storage has lost what was written reads there as it did at its last good flush, at once or when it is opened anew:
// that changes it, without a write.
//
// Bitmaps that have begun, or were cleared, since that flush began with what is lost.  What those that are stored have dropped since
// is kept until a flush succeeds, and is dirty again; of the others nobody knows what they have dropped: all is dirty.
#pragma once

#include "block/node.hpp"

namespace tidemark {

// What the parent was given to write went there.
inline bool keeps_content(Role role) noexcept { return role == Role::file || role == Role::data_file || role == Role::filtered; }

// The node's bitmaps, while it is told that something is lost; those that are stored need not wait, for what is kept is stored.
void mark_lost_content(BlockNode& node);

}  // namespace tidemark
