// The names of nodes' files: what a program must be told to find the same content again.
//
// A plain name where opening it by the node's driver makes the same of it; else `json:` and the options that matter, as QEMU
// has them: `json:{"driver": "raw", "offset": 512, "file": {"driver": "file", "filename": "disk.img"}}`.
#pragma once

#include "block/graph.hpp"

namespace tidemark {

// Both on the node's thread.

// As QEMU tells it, which takes an image for changed when its header does not have the very name of what is below it.
Task<std::string> file_name_of(BlockNode& node);

// For who opens it later, as an image's header does: `json:` only where the plain name would lead to something else, and then
// with files from the root on.  A plain one is as this process knows it.  Filters are none of it.
Task<std::string> name_to_keep_of(BlockNode& node);

}  // namespace tidemark
