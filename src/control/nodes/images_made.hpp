// Making images: blockdev-create's work, and the targets of drive-backup.
#pragma once

#include "control/nodes/node_opener.hpp"
#include "job/chain/chain_names.hpp"
#include "schema/create.hpp"
#include "schema/mirror.hpp"
#include "storage/file.hpp"

namespace tidemark {

Task<> create_image(Graph& graph, schema::BlockdevCreateOptions options, CancelToken interrupted = {});

// A new file `path` with an empty image of `format` ("raw", "qcow2") and `size`.
Task<> create_image_file(Graph& graph, std::string path, std::string format, std::uint64_t size);

// The same, of what can have a backing file, and says so.
Result<> check_backing(const std::string& format, const BackingName& backing);
// What fails leaves a file as create_file() does.
Task<CreatedFile> create_overlay_file(Graph& graph, std::string path, std::string format, std::uint64_t size, BackingName backing);
// What a target that is given this part of `source` has below it: null for the whole.
BlockNode* node_below(BlockNode& source, schema::MirrorSyncMode sync);
Task<BackingName> name_below(BlockNode* below);
// A node of such a file, which somebody uses or releases.  A backing file that the image names is left out, unless it is
// to be `followed`.
enum class Backing : std::uint8_t { left_out, followed };
Task<BlockNode*> open_image_file(Graph& graph, std::string path, std::string format, Backing backing = Backing::left_out,
                                 std::string node_name = {});

// A node like that of such a file, in memory and empty: what is right for it is right for the file.
Task<BlockNode*> make_stand_in(Graph& graph, std::string format, std::uint64_t size);

}  // namespace tidemark
