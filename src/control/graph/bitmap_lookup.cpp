#include "control/graph/bitmap_lookup.hpp"

#include <fmt/format.h>

namespace tidemark {

Error no_such_node(const std::string& node) { return Error(Errc::not_found, fmt::format("Node '{}' not found", node)); }

Task<Place*> find_place_of_bitmap(Homes& homes, std::string node) {
  Place* place = co_await homes.find(node);
  if (!place) co_await no_such_node(node);
  co_return place;
}

Result<FoundBitmap> find_bitmap(Graph& graph, const std::string& node_name, const std::string& name) {
  BlockNode* node = graph.pin(node_name);
  if (!node) return no_such_node(node_name);
  NodeBitmap* bitmap = node->bitmaps().find(name);
  if (!bitmap) return Error(Errc::not_found, fmt::format("Dirty bitmap '{}' not found", name));
  return FoundBitmap{node, bitmap};
}

}  // namespace tidemark
