// Overlays as nodes: one is made and opened, and takes the place of a node.  All on the nodes' thread.
#pragma once

#include "block/graph.hpp"
#include "schema/snapshot.hpp"

namespace tidemark {

Task<BlockNode*> find_node(Graph& graph, std::string name);
Task<> check_not_below(const BlockNode& node);
Result<> check_overlay(BlockNode& overlay);
// QEMU's message.
Task<> flush_for_snapshot(BlockNode& node);

// A file for what is to stand on `below`, as large as that.
Task<> make_overlay_file(BlockNode& below, std::string path, std::string format);
// As `like` was opened, and without what its own header names.  The users' alone, or the monitor's, too.
enum class Owner : std::uint8_t { users, monitor };
Task<BlockNode*> open_overlay_file(const BlockNode& like, schema::BlockdevSnapshotSync arguments, Owner owner = Owner::users);

// The overlay stays, whoever else lets go of it meanwhile.
Task<std::unique_ptr<Edge>> keep_overlay(BlockNode& overlay);
Task<> release_overlay(BlockNode& overlay, std::unique_ptr<Edge>& kept);

// The overlay stands on `below`, and what uses the node uses the overlay instead: who does now.  All are drained by the caller.
Task<std::vector<Edge*>> put_in_place(BlockNode& node, BlockNode& overlay, BlockNode& below);
// Some may be gone by now.  What was together on the node before can be so again.
Task<> take_out_of_place(BlockNode& node, BlockNode& overlay, const std::vector<Edge*>& moved);

}  // namespace tidemark
