#include "control/graph/chain_lookup.hpp"

#include <fmt/format.h>

#include "block/graph.hpp"
#include "block/status.hpp"
#include "filter/disk_filters.hpp"

namespace tidemark {

BlockNode* next_in_chain(const BlockNode& node) noexcept {
  return node.driver().is_filter() ? node.filtered() : node.backing();
}

bool chain_contains(BlockNode& top, const BlockNode& node) noexcept {
  for (BlockNode* at = &top; at; at = next_in_chain(*at))
    if (at == &node) return true;
  return false;
}

BlockNode& last_in_chain(BlockNode& top) noexcept {
  BlockNode* at = &top;
  while (BlockNode* below = next_in_chain(*at)) at = below;
  return *at;
}

BlockNode* overlay_of(BlockNode& top, BlockNode* below) noexcept {
  BlockNode* const wanted = below ? &skip_filters(*below) : nullptr;
  for (BlockNode* at = &skip_filters(top);;) {
    BlockNode* const backing = at->backing();
    BlockNode* const next = backing ? &skip_filters(*backing) : nullptr;
    if (next == wanted) return at;
    if (!next) return nullptr;
    at = next;
  }
}

Task<BlockNode*> find_backing_file(BlockNode& top, std::string file) {
  for (BlockNode* at = &skip_filters(top); at->backing();) {
    BlockNode& below = skip_filters(*at->backing());
    const ImageInfo above = co_await at->driver().info(), info = co_await below.driver().info();
    if (info.filename == file || above.backing_filename == file || above.full_backing_filename == file) co_return &below;
    at = &below;
  }
  co_return nullptr;
}

Result<BlockNode*> lookup_node_name(BlockNode& somewhere, const std::string& name) {
  if (BlockNode* node = somewhere.graph().pin(name)) return node;
  return Error(Errc::not_found, fmt::format("Cannot find device='' nor node-name='{}'", name));
}

Result<> check_is_root(const BlockNode& node) {
  if (is_disk(node)) return {};
  return Error(Errc::invalid_argument, "Need a root block node");
}

}  // namespace tidemark
