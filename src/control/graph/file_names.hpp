// The names of nodes' files: what a program must be told to find the same content again.
//
// A plain name where opening it by the node's driver makes the same of it; else `json:` and the options that matter, as QEMU
// has them: `json:{"driver": "raw", "offset": 512, "file": {"driver": "file", "filename": "disk.img"}}`.
#pragma once

#include "block/graph.hpp"

namespace tidemark {

// On the node's thread.
Task<std::string> file_name_of(BlockNode& node);

}  // namespace tidemark
