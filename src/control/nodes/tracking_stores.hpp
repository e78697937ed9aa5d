// Where a node's persistent bitmaps are kept, and when their store is opened and made: the choice of the
// file is here, the store itself is tracking/store.hpp.
//
// All on the node's thread.
#pragma once

#include "block/graph.hpp"

namespace tidemark {

namespace qcow2 {
struct Header;
}

// Of a node that nobody writes to yet, because it was just added, was only read, or was inactive: brings back the bitmaps that its
// store or its image has, and opens or makes the store.  Those of a node that is read-only are shown, and nothing is written.  On error
// the node must not be used: its tracking is to be dropped, or it is to be removed.
enum class OpenedAs : std::uint8_t { added, written_again, active_again };
Task<> open_tracking(BlockNode& node, OpenedAs opened = OpenedAs::added);
// What has begun of it ends, and with it the lock of the store.
Task<> drop_tracking(BlockNode& node);
// Of a node that is to have a persistent bitmap: makes a store, unless it has one.  The error says why its
// bitmaps cannot be persistent.
Task<> ensure_tracking(BlockNode& node);
// While guests go on, for what a transaction will do; a node that is not active may be by then.
Task<> ensure_tracking_ahead(BlockNode& node);
// The store of a regular file unless `tracking.store` names another: beside the file itself.
std::string store_beside(const std::string& image);
// Of an image that nobody has open: the bitmaps that are in its store alone, which a crash has left, by name.
Task<std::vector<std::string>> bitmaps_left_over(Reactor& reactor, const qcow2::Header& image, std::string path);
// Of an image that has just been made: a store in its place is about another one.  Anything else that is there stays, and so does
// one that somebody has.
Task<> remove_store_left_over(Reactor& reactor, std::string image);
// What changed of the node's persistent bitmaps is durable afterwards.
Task<> save_tracking(BlockNode& node);
// The same when bitmaps have dropped something: that has happened, so a failure is an event and no error.  The store has
// more marks than the bitmaps then, until its next checkpoint.
Task<> forget_dropped(BlockNode& node);

}  // namespace tidemark
