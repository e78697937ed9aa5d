#include "job/chain/chain_names.hpp"

#include <filesystem>

#include "base/paths.hpp"
#include "block/status.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;

bool has_protocol(const std::string& name) { return name.find(':') < name.find('/'); }

bool is_storage(const BlockNode& node) { return !node.driver().is_filter() && node.driver().edges().empty(); }

}  // namespace

std::string name_from(const std::string& image, const std::string& base) {
  const files::path path(base);
  if (path.is_absolute() || has_protocol(base)) return base;
  return path.parent_path() == files::path(image).parent_path() ? path.filename().string() : absolute_path(base);
}

Task<BackingName> backing_name(BlockNode& overlay, BlockNode* base, std::optional<std::string> given, bool mask_protocol) {
  if (!base) co_return BackingName();
  BlockNode& layer = skip_filters(*base);
  BackingName name;
  name.format = mask_protocol && is_storage(layer) ? "raw" : layer.driver().name();
  if (given) {
    name.name = *std::move(given);
    co_return std::move(name);
  }
  const ImageInfo image = co_await overlay.driver().info(), below = co_await layer.driver().info();
  name.name = name_from(image.filename, below.filename);
  if (name.name.empty())
    co_await Error(Errc::invalid_argument, "Node '" + layer.name() + "' has no file name for the image above it; give 'backing-file'");
  co_return std::move(name);
}

}  // namespace tidemark
