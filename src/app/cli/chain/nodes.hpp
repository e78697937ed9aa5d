// A daemon's nodes, as people name them.
#pragma once

#include "app/cli/context.hpp"

namespace tidemark::cli {

// The node at the top of a disk's chain: what the export of that name shows, so that a disk keeps its name when its top changes; only
// where there is none the node of that name, which the disk may have left.  All verbs find a disk so.
Task<std::string> node_of_disk(QmpClient& client, std::string name);

// query-named-block-nodes, without what is below each.
Task<Json> all_nodes(QmpClient& client);

// That and query-block-exports: each export's node is among the nodes, also when somebody takes a snapshot between the two.
struct Disks {
  Json nodes, exports;
};
Task<Disks> all_disks(QmpClient& client);

// What an export of that id shows; empty: there is none.
std::string node_of_export(const Disks& disks, const std::string& id);
// node_of_disk(), at that moment.
std::string node_of_disk(const Disks& disks, const std::string& name);
// The image_of_disk() of that.  Errc::busy for a node that is not all of a disk, since guests write to an overlay on it.
Result<std::string> written_image_of(const Disks& disks, const std::string& name);

// A disk that is exported writable, by the image_of_disk().
struct ExportedDisk {
  std::string node;
  // All that find it: the ids of its exports, the one made first in front, whatever its top is called by now; and its node, where no
  // export is called so.
  std::vector<std::string> names;
};
std::vector<ExportedDisk> exported_writable(const Disks& disks);

// A node's entry in that; an error when there is none.
Result<Json> node_in(const Json& nodes, const std::string& name);

// The image that what is exported shows: an overlay goes below filters.
std::string image_below_filters(const Json& nodes, std::string name);
// Below what jobs that run have put above it, too, which goes with the job and has a name that nobody gave.  All writers of a disk
// come to it, whatever they write through: it has the disk's bitmaps, and is what is backed up.
std::string image_of_disk(const Json& nodes, std::string name);

bool has_child(const Json& node, const std::string& name);

// What stands on a node, or on filters that show it.
std::vector<std::string> nodes_on(const Json& nodes, const std::string& image);

// An image that hides what this one holds, and has it as its backing file; also of the storage below one.  Empty: there is none.
std::string overlay_above(const Json& nodes, const std::string& image);

// Whether one node is the other or, by whatever it is made of, above it.
bool stands_on(const Json& nodes, const std::string& top, const std::string& below);

// The driver of the node at the bottom, which has an image's bytes.
std::string storage_driver(const Json& nodes, const std::string& name);

// The file that an image is in: an image that was given another backing file than it names is told of as `json:`.
std::string file_of_image(const Json& nodes, const std::string& name);

// A name that no node has, after that of its file.
std::string free_node_name(const Json& nodes, const std::string& file);

std::vector<std::string> bitmap_names(const Json& node);

// A node that nobody uses any more.
Task<> remove_node(QmpClient& client, std::string name);

// After a disk has gone over from one node to another.
struct LeftNode {
  bool there = false;                    // it could not be removed, or holds bitmaps that nobody could bring back
  std::vector<std::string> bitmaps;      // that did not go over
};
Task<LeftNode> let_go_of(QmpClient& client, std::string before, std::string now);

}  // namespace tidemark::cli
