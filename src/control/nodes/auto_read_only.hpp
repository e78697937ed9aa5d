// Storage that was added with auto-read-only: it is opened for reading, and for writing too while somebody writes to it.
//
// Others can have the file for as long as nobody does, and who only reads a backing file need not be allowed to write it.  Who is
// about to use a node for writing says so first; what is not used so any more is found when its user goes, or soon after.
#pragma once

#include "block/graph.hpp"

namespace tidemark {

// On the node's thread.

bool follows_its_users(const BlockNode& node);
// What others are told: one that follows its users can be written.
bool is_read_only(const BlockNode& node);

// Nothing to do for others than such.
Task<> begin_to_write(BlockNode& node);
Task<> begin_to_write_storage(BlockNode& node);        // what it stores its content in
// Where nobody writes any more.  What cannot be changed stays as it is.
Task<> end_unused_writing(BlockNode& node);
Task<> end_unused_writing_of_storage(BlockNode& node);
Task<> end_unused_writing(Graph& graph);               // of all

}  // namespace tidemark
