#include "app/cli/chain/others.hpp"

#include <algorithm>
#include <filesystem>
#include <set>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/names.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

namespace stdfs = std::filesystem;

bool is_same(const FileInfo& one, const FileInfo& other) { return one.device == other.device && one.inode == other.inode; }

// An error that leaves it open what an image stands on.
bool is_unclear(const Error& error) { return error.code() != Errc::not_found && error.code() != Errc::invalid_format; }

Task<bool> may_stand_on(Reactor& reactor, std::string image, FileInfo base) {
  const auto header = co_await read_header(reactor, image).result();
  if (!header) co_return is_unclear(header.error());
  if (header->backing_name.empty()) co_return false;
  const auto below = co_await backing_of(reactor, image, header->backing_name, header->backing_format).result();
  if (!below) co_return is_unclear(below.error());
  const auto file = co_await fs::stat(reactor, below->name).result();
  if (!file) co_return is_unclear(file.error());
  co_return is_same(*file, base);
}

Task<bool> any_in(Reactor& reactor, std::string directory, FileInfo base, FileInfo above) {
  const auto names = co_await fs::list(reactor, directory).result();
  if (!names) co_return true;
  for (const std::string& name : *names) {
    const std::string path = (stdfs::path(directory) / name).string();
    const auto file = co_await fs::stat(reactor, path).result();
    if (!file || file->type != FileInfo::Type::regular || is_same(*file, above)) continue;
    const bool stands = co_await may_stand_on(reactor, path, base);
    if (stands) co_return true;
  }
  co_return false;
}

// By the names of the files, and where links lead.
std::set<std::string> directories_of(const Json& layers) {
  std::set<std::string> found;
  std::error_code error;
  for (const Json& layer : items(layers)) {
    const stdfs::path file = stdfs::absolute(text(layer, "filename"), error);
    const stdfs::path real = stdfs::canonical(file, error);
    if (!error) found.insert({file.parent_path().string(), real.parent_path().string()});
  }
  return found;
}

bool is_child_of_others(const Json& nodes, const std::string& base, const std::string& above) {
  for (const Json& node : items(nodes)) {
    const Json* children = node.find("children");
    if (!children || text(node, "node-name") == above) continue;
    if (find_by(*children, "node-name", base)) return true;
  }
  return false;
}

}  // namespace

Task<bool> others_may_stand_on(const Context& context, QmpClient* client, const Json& layers, std::size_t layer) {
  const Json& below = items(layers)[layer];
  const Json& upper = items(layers)[layer - 1];
  const std::string file = text(below, "filename");
  if (client) {
    if (!file.starts_with('/')) co_return true;          // as the daemon sees it
    const Json nodes = co_await all_nodes(*client);
    if (is_child_of_others(nodes, text(below, "node-name"), text(upper, "node-name"))) co_return true;
  }
  const auto base = co_await fs::stat(context.reactor, file).result();
  const auto above = co_await fs::stat(context.reactor, text(upper, "filename")).result();
  if (!base || !above || base->type != FileInfo::Type::regular) co_return true;
  for (const std::string& directory : directories_of(layers)) {
    const bool found = co_await any_in(context.reactor, directory, *base, *above);
    if (found) co_return true;
  }
  co_return false;
}

}  // namespace tidemark::cli
