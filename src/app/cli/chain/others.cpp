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

// Whether an image stands on another one.
enum class Stands : std::uint8_t { no, perhaps, yes };

// Of one that it could not be told of.
Stands unclear(const Error& error) {
  return error.code() == Errc::not_found || error.code() == Errc::invalid_format ? Stands::no : Stands::perhaps;
}

Task<Stands> stands_on(Reactor& reactor, std::string image, FileInfo base) {
  const auto header = co_await read_header(reactor, image).result();
  if (!header) co_return unclear(header.error());
  if (header->backing_name.empty()) co_return Stands::no;
  const auto below = co_await backing_of(reactor, image, header->backing_name, header->backing_format).result();
  if (!below) co_return unclear(below.error());
  const auto file = co_await fs::stat(reactor, below->name).result();
  if (!file) co_return unclear(file.error());
  co_return is_same(*file, base) ? Stands::yes : Stands::no;
}

// What is known of the files of a directory: of the one that stands on the base most surely.
struct Known {
  Stands stands = Stands::no;
  std::string file;
};

Task<Known> look_in(Reactor& reactor, std::string directory, FileInfo base, FileInfo above) {
  const auto names = co_await fs::list(reactor, directory).result();
  if (!names) co_return Known{Stands::perhaps, directory};
  Known most;
  for (const std::string& name : *names) {
    const std::string path = (stdfs::path(directory) / name).string();
    const auto file = co_await fs::stat(reactor, path).result();
    if (!file || file->type != FileInfo::Type::regular || is_same(*file, above)) continue;
    const Stands stands = co_await stands_on(reactor, path, base);
    if (stands > most.stands) most = {stands, path};
    if (stands == Stands::yes) break;
  }
  co_return std::move(most);
}

// By the names of the files, and where links lead.
std::set<std::string> directories_of(const std::vector<std::string>& files) {
  std::set<std::string> found;
  std::error_code error;
  for (const std::string& name : files) {
    const stdfs::path file = stdfs::absolute(name, error);
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
  std::vector<std::string> files;
  for (const Json& one : items(layers)) files.push_back(text(one, "filename"));
  for (const std::string& directory : directories_of(files)) {
    const Known known = co_await look_in(context.reactor, directory, *base, *above);
    if (known.stands != Stands::no) co_return true;
  }
  co_return false;
}

Task<std::string> file_that_stands_on(Reactor& reactor, std::string image) {
  const FileInfo itself = co_await fs::stat(reactor, image);
  const std::vector<std::string> files{image};
  for (const std::string& directory : directories_of(files)) {
    const Known known = co_await look_in(reactor, directory, itself, itself);
    if (known.stands == Stands::yes) co_return known.file;
  }
  co_return std::string();
}

}  // namespace tidemark::cli
