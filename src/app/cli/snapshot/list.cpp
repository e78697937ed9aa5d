// What snapshots a disk has: the layers below its top, and those that the top's image keeps.
#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "app/cli/text.hpp"
#include "backup/manifest.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

constexpr std::int64_t ns_per_s = 1'000'000'000;

Task<Json> kept_by_node(const Context& context, std::string node) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  const Json nodes = co_await finally(all_nodes(client), close);
  const Json found = co_await unwrap(node_in(nodes, node));
  const Json* image = found.find("image");
  const Json* kept = image ? image->find("snapshots") : nullptr;
  if (kept) co_return *kept;
  co_return Json::array();
}

Task<Json> kept_by_file(const Context& context, const Json& top) {
  Json kept = Json::array();
  if (text(top, "driver") != "qcow2") co_return std::move(kept);
  ImageName image{text(top, "filename"), "qcow2"};
  const auto snapshots = co_await snapshots_in(context.reactor, std::move(image), true);
  for (const Qcow2Snapshot& snapshot : snapshots) kept.push_back(to_json(snapshot));
  co_return std::move(kept);
}

void print_disk(const Json::Array& layers, const Json& kept) {
  print_line(chain_picture(layers, {}));
  Table table({"SNAPSHOT", "KIND", "TAKEN", "HOLDS", "FILE"});
  for (std::size_t i = 1; i < layers.size(); ++i)
    table.add({text(layers[i], "layer"), "external", "-", human_size(number(layers[i], "bytes")), text(layers[i], "filename")});
  for (const Json& one : items(kept))
    table.add({fmt::format("{} {}", text(one, "id"), text(one, "name")), "internal",
               utc_time(static_cast<std::int64_t>(number(one, "date-sec")) * ns_per_s), "-", text(layers[0], "filename")});
  if (layers.size() > 1 || !items(kept).empty()) print_lines(table.to_text());
}

Task<Json> look_at_disk(const Context& context, const ChainName& disk) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, disk, none);
  const Json& layers = *cost.find("layers");
  const Json::Array& all = items(layers);
  Json kept;
  if (disk.live) kept = co_await kept_by_node(context, text(all[0], "node-name"));
  else kept = co_await kept_by_file(context, all[0]);
  if (!context.json) print_disk(all, kept);
  Json external = Json::array();
  for (std::size_t i = 1; i < all.size(); ++i) external.push_back(all[i]);
  co_return Json::object({{"disk", disk.top}, {"file", text(all[0], "filename")}, {"external", std::move(external)},
                          {"internal", std::move(kept)}});
}

}  // namespace

Task<Exit> snapshot_list(const Context& context, SnapshotListOptions options) {
  Json all = Json::array();
  for (const ChainName& disk : options.disks) {
    Json told = co_await look_at_disk(context, disk);
    all.push_back(std::move(told));
  }
  if (context.json) print_json(all);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
