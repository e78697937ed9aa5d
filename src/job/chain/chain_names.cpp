#include "job/chain/chain_names.hpp"

#include "base/paths.hpp"
#include "block/status.hpp"

namespace tidemark {
namespace {

bool is_storage(const BlockNode& node) { return !node.driver().is_filter() && node.driver().edges().empty(); }

// The driver at the bottom has the name.
bool is_in_file(const BlockNode& layer) {
  const BlockNode* at = &layer;
  for (const Edge* file = at->child(Role::file); file; file = at->child(Role::file)) at = &skip_filters(file->node());
  return at->driver().name() == "file" || at->driver().name() == "host_device";
}

}  // namespace

Task<std::string> ChainAccess::name_to_keep(BlockNode& node) {
  ImageInfo info = co_await node.driver().info();
  co_return std::move(info.filename);
}

Task<BackingName> backing_name(BlockNode& overlay, BlockNode* base, std::optional<std::string> given, bool mask_protocol,
                               ChainAccess* access) {
  if (!base) co_return BackingName();
  BlockNode& layer = skip_filters(*base);
  BackingName name;
  name.format = mask_protocol && is_storage(layer) ? "raw" : layer.driver().name();
  if (given) {
    name.name = *std::move(given);
    co_return std::move(name);
  }
  const ImageInfo image = co_await overlay.driver().info(), below = co_await layer.driver().info();
  std::string kept = below.filename;
  if (access) kept = co_await access->name_to_keep(layer);
  if (kept == below.filename && is_in_file(layer)) kept = file_not_protocol(kept);
  name.name = name_from(image.filename, kept);
  if (name.name.empty())
    co_await Error(Errc::invalid_argument, "Node '" + layer.name() + "' has no file name for the image above it; give 'backing-file'");
  co_return std::move(name);
}

}  // namespace tidemark
