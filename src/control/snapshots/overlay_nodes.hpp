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
// How an overlay is opened: as another node was, by a name or a generated one.  The users' alone, or the monitor's, too.
enum class Owner : std::uint8_t { users, monitor };
struct OverlayLike {
  bool read_only = false, discard = false, cache_direct = false, cache_no_flush = false;
  std::string node_name = {};
  Owner owner = Owner::users;
  bool operator==(const OverlayLike&) const = default;
};
OverlayLike overlay_like(const BlockNode& node);
// Without what its own header names.
Task<BlockNode*> open_overlay_file(Graph& graph, std::string path, std::string format, OverlayLike like);

// The overlay stays, whoever else lets go of it meanwhile.
Task<std::unique_ptr<Edge>> keep_overlay(BlockNode& overlay);
Task<> release_overlay(BlockNode& overlay, std::unique_ptr<Edge>& kept);

// The overlay stands on `below`, and what uses the node uses the overlay instead: who does now.  All are drained by the caller.
Task<std::vector<Edge*>> put_in_place(BlockNode& node, BlockNode& overlay, BlockNode& below);
// Some may be gone by now.  What was together on the node before can be so again.
Task<> take_out_of_place(BlockNode& node, BlockNode& overlay, const std::vector<Edge*>& moved);

}  // namespace tidemark
