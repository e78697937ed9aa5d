#include "app/cli/chain/nodes.hpp"

#include <algorithm>
#include <filesystem>
#include <map>

#include <fmt/format.h>

#include "app/cli/fields.hpp"

namespace tidemark::cli {
namespace {

constexpr std::size_t name_size_max = 31;

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_legal(char c) { return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_'; }

std::string driver_of(const Json& nodes, const std::string& name) {
  const Json* node = find_by(nodes, "node-name", name);
  return node ? text(*node, "drv") : "";
}

std::string child_of(const Json& nodes, const std::string& name, std::string_view which) {
  const Json* node = find_by(nodes, "node-name", name);
  const Json* children = node ? node->find("children") : nullptr;
  const Json* child = children ? find_by(*children, "child", which) : nullptr;
  return child ? text(*child, "node-name") : "";
}

std::string file_below(const Json& nodes, const std::string& name) { return child_of(nodes, name, "file"); }

std::string storage_below(const Json& nodes, std::string name) {
  for (std::string file = file_below(nodes, name); !file.empty(); file = file_below(nodes, name)) name = file;
  return name;
}

// By a filter that users put above disks.  A copy-before-write is a backup's as a rule, which is under way.
std::string filtered_by(const Json& nodes, const std::string& name) {
  const std::string driver = driver_of(nodes, name);
  if (driver == "blkdebug") return child_of(nodes, name, "image");
  const bool filters = driver == "throttle" || driver == "copy-on-read" || driver == "compress";
  return filters ? file_below(nodes, name) : "";
}

std::string below_job(const Json& nodes, const std::string& name) {
  static constexpr std::string_view of_jobs[] = {"copy-before-write", "copy-on-read", "mirror_top", "commit_top"};
  if (!name.starts_with('#') || std::ranges::find(of_jobs, driver_of(nodes, name)) == std::end(of_jobs)) return "";
  const std::string file = file_below(nodes, name);
  return file.empty() ? child_of(nodes, name, "backing") : file;
}

}  // namespace

bool has_child(const Json& node, const std::string& name) {
  const Json* children = node.find("children");
  return children && find_by(*children, "node-name", name);
}

Task<std::string> node_of_disk(QmpClient& client, std::string name) {
  Disks disks;
  disks.exports = co_await client.execute("query-block-exports");
  co_return node_of_disk(disks, name);
}

Task<Json> all_nodes(QmpClient& client) {
  Json flat = Json::object({{"flat", true}});
  co_return co_await client.execute("query-named-block-nodes", std::move(flat));
}

Task<Disks> all_disks(QmpClient& client) {
  constexpr int tries = 100;             // somebody would have to change a disk each time
  Disks disks;
  bool at_once = false;
  for (int i = 0; i < tries && !at_once; ++i) {
    disks.nodes = co_await all_nodes(client);
    disks.exports = co_await client.execute("query-block-exports");
    at_once = std::ranges::all_of(items(disks.exports), [&](const Json& entry) {
      return find_by(disks.nodes, "node-name", text(entry, "node-name")) != nullptr;
    });
  }
  co_return std::move(disks);
}

std::string node_of_export(const Disks& disks, const std::string& id) {
  const Json* found = find_by(disks.exports, "id", id);
  return found ? text(*found, "node-name") : "";
}

std::string node_of_disk(const Disks& disks, const std::string& name) {
  std::string shown = node_of_export(disks, name);
  return shown.empty() ? name : shown;
}

Result<std::string> written_image_of(const Disks& disks, const std::string& name) {
  const Json* node = find_by(disks.nodes, "node-name", name);
  std::string above;                     // temporary images for others who read a disk stand on it, too, but it is written itself
  if (node_of_export(disks, name).empty() && node && flag(*node, "ro")) above = overlay_above(disks.nodes, name);
  if (above.empty()) return image_of_disk(disks.nodes, node_of_disk(disks, name));
  return Error(Errc::busy, fmt::format("node '{}' is not all of a disk: '{}' stands on it; name that one, or the disk's export", name,
                                       above));
}

std::vector<ExportedDisk> exported_writable(const Disks& disks) {
  std::map<std::string, std::vector<std::string>> names;
  const auto& newest_first = items(disks.exports);
  for (auto entry = newest_first.rbegin(); entry != newest_first.rend(); ++entry) {
    const std::string image = image_of_disk(disks.nodes, text(*entry, "node-name"));
    const Json* node = find_by(disks.nodes, "node-name", image);
    if (node && !flag(*node, "ro")) names[image].push_back(text(*entry, "id"));
  }
  std::vector<ExportedDisk> found;
  for (auto& [node, ids] : names) {
    if (node_of_export(disks, node).empty()) ids.push_back(node);
    found.push_back({node, std::move(ids)});
  }
  return found;
}

Result<Json> node_in(const Json& nodes, const std::string& name) {
  const Json* node = find_by(nodes, "node-name", name);
  if (!node) return Error(Errc::not_found, fmt::format("the daemon has no node '{}'", name));
  return *node;
}

std::string image_below_filters(const Json& nodes, std::string name) {
  for (std::string file = filtered_by(nodes, name); !file.empty(); file = filtered_by(nodes, name)) name = file;
  return name;
}

std::string image_of_disk(const Json& nodes, std::string name) {
  for (;;) {
    std::string below = filtered_by(nodes, name);
    if (below.empty()) below = below_job(nodes, name);
    if (below.empty()) return name;
    name = std::move(below);
  }
}

std::vector<std::string> nodes_on(const Json& nodes, const std::string& image) {
  std::vector<std::string> all;
  for (const Json& node : items(nodes)) {
    const std::string name = text(node, "node-name");
    if (!has_child(node, image)) continue;
    if (filtered_by(nodes, name) != image) {
      all.push_back(name);
      continue;
    }
    const std::vector<std::string> above = nodes_on(nodes, name);
    all.insert(all.end(), above.begin(), above.end());
  }
  return all;
}

std::string overlay_above(const Json& nodes, const std::string& image) {
  for (const Json& node : items(nodes)) {
    const std::string name = text(node, "node-name");
    const bool job = name.starts_with('#') && (driver_of(nodes, name) == "mirror_top" || driver_of(nodes, name) == "commit_top");
    const bool shows = filtered_by(nodes, name) == image || (job && has_child(node, image));
    if (!shows && child_of(nodes, name, "backing") == image) return name;
    if (!shows && file_below(nodes, name) != image) continue;
    if (std::string above = overlay_above(nodes, name); !above.empty()) return above;
  }
  return "";
}

bool stands_on(const Json& nodes, const std::string& top, const std::string& below) {
  if (top == below) return true;
  const Json* node = find_by(nodes, "node-name", top);
  const Json* children = node ? node->find("children") : nullptr;
  if (!children) return false;
  const auto& all = items(*children);
  return std::any_of(all.begin(), all.end(), [&](const Json& child) { return stands_on(nodes, text(child, "node-name"), below); });
}

std::string storage_driver(const Json& nodes, const std::string& name) { return driver_of(nodes, storage_below(nodes, name)); }

std::string file_of_image(const Json& nodes, const std::string& name) {
  const Json* node = find_by(nodes, "node-name", name);
  if (!node || !text(*node, "file").starts_with("json:") || text(*node, "drv") != "qcow2") return node ? text(*node, "file") : "";
  return text(*find_by(nodes, "node-name", storage_below(nodes, name)), "file");
}

std::string free_node_name(const Json& nodes, const std::string& file) {
  std::string wanted = std::filesystem::path(file).stem().string();
  for (char& c : wanted)
    if (!is_legal(c)) c = '-';
  if (wanted.empty() || !is_letter(wanted[0])) wanted.insert(0, "disk-");
  for (unsigned i = 0;; ++i) {
    const std::string ending = i == 0 ? std::string() : fmt::format("-{}", i);
    const std::string name = wanted.substr(0, name_size_max - ending.size()) + ending;
    if (!find_by(nodes, "node-name", name)) return name;
  }
}

std::vector<std::string> bitmap_names(const Json& node) {
  std::vector<std::string> names;
  if (const Json* bitmaps = node.find("dirty-bitmaps"))
    for (const Json& bitmap : items(*bitmaps)) names.push_back(text(bitmap, "name"));
  return names;
}

Task<> remove_node(QmpClient& client, std::string name) {
  Json node = Json::object({{"node-name", std::move(name)}});
  co_await client.execute("blockdev-del", std::move(node));
}

Task<LeftNode> let_go_of(QmpClient& client, std::string before, std::string now) {
  LeftNode left;
  const Json nodes = co_await all_nodes(client);
  const Json* from = find_by(nodes, "node-name", before);
  const Json* to = find_by(nodes, "node-name", now);
  if (!from || !to) co_return left;
  const std::vector<std::string> have = bitmap_names(*to);
  bool lost = false;
  const Json* bitmaps = from->find("dirty-bitmaps");
  static const Json none = Json::array();
  for (const Json& bitmap : items(bitmaps ? *bitmaps : none)) {
    if (std::find(have.begin(), have.end(), text(bitmap, "name")) != have.end()) continue;
    left.bitmaps.push_back(text(bitmap, "name"));
    lost = lost || !flag(bitmap, "persistent");
  }
  Result<> removed;
  if (!lost) removed = co_await remove_node(client, before).result();
  left.there = lost || !removed;
  co_return left;
}

}  // namespace tidemark::cli
