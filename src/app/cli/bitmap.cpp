#include <algorithm>

#include <fmt/format.h>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/commands.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/text.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

std::string state_of(const Json& bitmap) {
  std::string state = flag(bitmap, "recording") ? "recording" : "disabled";
  if (flag(bitmap, "busy")) state += ",busy";
  if (flag(bitmap, "persistent")) state += ",persistent";
  if (flag(bitmap, "follows-disk")) state += ",follows-disk";
  if (flag(bitmap, "inconsistent")) state += ",inconsistent";
  return state;
}

// What a disk writes to has its bitmaps; a node that is no export's, or that a disk has left with this bitmap, is called by its own name.
Task<std::string> node_with(QmpClient& client, const BitmapOptions& options) {
  const Disks disks = co_await all_disks(client);
  const std::string shown = node_of_export(disks, options.node);
  if (shown.empty()) co_return options.node;
  std::string image = image_of_disk(disks.nodes, shown);
  const auto has = [&](const std::string& name) {
    const Json* node = find_by(disks.nodes, "node-name", name);
    return node && std::ranges::count(bitmap_names(*node), options.name) != 0;
  };
  const bool left = options.verb != BitmapOptions::Verb::add && !has(image) && has(options.node);
  if (left) co_return options.node;
  co_return std::move(image);
}

// Of a disk, and of the node of that name, when it is another.
Task<> list_bitmaps(const Context& context, QmpClient& client, std::string node) {
  const Disks disks = co_await all_disks(client);
  const std::string image = image_of_disk(disks.nodes, node_of_disk(disks, node));
  Table table({"NODE", "BITMAP", "GRANULARITY", "DIRTY", "STATE"});
  Json rows = Json::array();
  bool found = node.empty();
  for (const Json& entry : items(disks.nodes)) {
    const std::string name = text(entry, "node-name");
    const Json* bitmaps = entry.find("dirty-bitmaps");
    const bool meant = node.empty() || name == node || name == image;
    found = found || meant;
    if (!bitmaps || !meant) continue;
    for (const Json& bitmap : items(*bitmaps)) {
      if (!bitmap.is_object()) continue;
      table.add({name, text(bitmap, "name"), human_size(number(bitmap, "granularity")), human_size(number(bitmap, "count")),
                 state_of(bitmap)});
      Json row = bitmap;
      row.set("node", name);
      rows.push_back(std::move(row));
    }
  }
  if (!found) co_await Error(Errc::not_found, fmt::format("the daemon has no node '{}'", node));
  if (context.json) print_json(rows);
  else print_lines(table.to_text());
}

Json arguments_of(const BitmapOptions& options) {
  Json arguments = Json::object({{"node", options.node}});
  if (options.verb == BitmapOptions::Verb::merge) {
    Json sources = Json::array();
    for (const std::string& source : options.sources) sources.push_back(source);
    arguments.set("target", options.name);
    arguments.set("bitmaps", std::move(sources));
    return arguments;
  }
  arguments.set("name", options.name);
  if (options.verb == BitmapOptions::Verb::add) {
    if (options.granularity) arguments.set("granularity", options.granularity);
    if (options.disabled) arguments.set("disabled", true);
    if (options.persistent) arguments.set("persistent", true);
    if (options.follows_disk) arguments.set("follows-disk", true);
  }
  return arguments;
}

Task<> run(const Context& context, QmpClient& client, BitmapOptions options) {
  static constexpr const char* commands[] = {"", "add", "remove", "clear", "enable", "disable", "merge"};
  if (options.verb == BitmapOptions::Verb::list) co_return co_await list_bitmaps(context, client, options.node);
  options.node = co_await node_with(client, options);
  const std::string command = fmt::format("block-dirty-bitmap-{}", commands[static_cast<int>(options.verb)]);
  Json arguments = arguments_of(options);
  const Json answer = co_await client.execute(command, std::move(arguments));
  if (context.json) print_json(answer);
}

}  // namespace

Task<Exit> bitmap(const Context& context, BitmapOptions options) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(run(context, client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
