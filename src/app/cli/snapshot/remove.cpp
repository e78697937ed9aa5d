// Snapshots are deleted: what is between one and the next younger state becomes one layer, and all other states stay readable.
//
// What a layer K keeps goes when K is pulled into the one above, or that one is committed to K; committing K itself would
// destroy the state below it.  The deepest goes first: then the numbers of the others stay.
#include <algorithm>

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/chain/steps.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

using Way = SnapshotDeleteOptions::Way;

// A file's name is what people start guests with: it stays the disk unless they say otherwise.
Removal choose(const Json::Array& layers, std::size_t snapshot, Way way, bool live) {
  const bool cheaper = number(layers[snapshot - 1], "commit") < number(layers[snapshot], "pull");
  const bool commits = way == Way::commit || (way == Way::cheapest && cheaper && (live || snapshot > 1));
  if (commits) return {true, snapshot - 1, snapshot - 1};
  return {false, snapshot, snapshot};
}

void print(const Context& context, const SnapshotDeleteOptions& options, const Json::Array& layers, std::size_t snapshot, Removal step,
           const LeftNode& left) {
  const Json& gone = layers[step.first];
  const bool new_top = step.commit && step.first == 0;
  if (context.json) {
    Json told = Json::object({{"disk", options.disk.top}, {"snapshot", text(layers[snapshot], "layer")},
                              {"action", step.commit ? "commit" : "pull"}, {"file", text(gone, "filename")}});
    told.set("top", text(layers[new_top ? step.into() : 0], "filename"));
    if (!left.bitmaps.empty()) {
      Json bitmaps = Json::array();
      for (const std::string& bitmap : left.bitmaps) bitmaps.push_back(bitmap);
      told.set("bitmaps-left", std::move(bitmaps));
    }
    return print_json(told);
  }
  print_line(fmt::format("deleted snapshot {}: '{}' is not part of the disk any more", text(layers[snapshot], "layer"),
                         text(gone, "filename")));
  if (new_top) print_line(fmt::format("disk '{}' is '{}' now", options.disk.top, text(layers[step.into()], "filename")));
  for (const std::string& bitmap : left.bitmaps) print_line(fmt::format("a bitmap that did not go along: {}", bitmap));
}

Task<> remove_layer(const Context& context, QmpClient* client, const SnapshotDeleteOptions& options, std::size_t snapshot) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.disk, none);
  const Json& layers = *cost.find("layers");
  const Json::Array& all = items(layers);
  if (snapshot >= all.size()) co_await Error(Errc::not_found, fmt::format("somebody else has changed the chain of '{}'", options.disk.top));
  const Removal step = choose(all, snapshot, options.way, client != nullptr);
  LeftNode left;
  if (!client) co_await remove_offline(context, layers, step);
  else {
    co_await remove_live(context, *client, layers, step, options.speed);
    if (step.commit && step.first == 0)
      left = co_await let_go_of(*client, text(all[0], "node-name"), text(all[step.into()], "node-name"));
  }
  print(context, options, all, snapshot, step, left);
}

Task<> remove_layers(const Context& context, QmpClient* client, SnapshotDeleteOptions options) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.disk, none);
  std::vector<std::size_t> found;
  for (const std::string& word : options.snapshots) {
    const std::size_t layer = co_await unwrap(find_layer(*cost.find("layers"), options.disk, word));
    if (layer == 0)
      co_await Error(Errc::invalid_argument, fmt::format("{} is the disk as it is, no snapshot; snapshots begin with {}",
                                                         layer_name(options.disk, 0), layer_name(options.disk, 1)));
    found.push_back(layer);
  }
  std::sort(found.rbegin(), found.rend());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  for (const std::size_t layer : found) co_await remove_layer(context, client, options, layer);
}

void print_kept(const Context& context, const SnapshotDeleteOptions& options, const std::string& id, const std::string& name) {
  if (context.json) print_json(Json::object({{"disk", options.disk.top}, {"id", id}, {"name", name}}));
  else print_line(fmt::format("deleted snapshot '{}' with the id {}", name, id));
}

// An id counts more than a name that looks like one.
Task<> remove_kept_live(const Context& context, QmpClient& client, SnapshotDeleteOptions options) {
  const std::string node = co_await node_of_disk(client, options.disk.top);
  for (const std::string& word : options.snapshots) {
    const Json nodes = co_await all_nodes(client);
    const Json entry = co_await unwrap(node_in(nodes, node));
    const Json* image = entry.find("image");
    const Json* kept = image ? image->find("snapshots") : nullptr;
    const Json* found = kept ? find_by(*kept, "id", word) : nullptr;
    if (kept && !found) found = find_by(*kept, "name", word);
    if (!found) co_await Error(Errc::not_found, fmt::format("the image of '{}' keeps no snapshot '{}'", options.disk.top, word));
    Json arguments = Json::object({{"device", node}, {"id", text(*found, "id")}, {"name", text(*found, "name")}});
    co_await client.execute("blockdev-snapshot-delete-internal-sync", std::move(arguments));
    print_kept(context, options, text(*found, "id"), text(*found, "name"));
  }
}

Task<> remove_kept(const Context& context, SnapshotDeleteOptions options) {
  for (const std::string& word : options.snapshots) {
    ImageSnapshotOptions change;
    change.action = ImageSnapshotOptions::Action::remove;
    change.image.name = options.disk.top;
    change.name = word;
    const Qcow2Snapshot gone = co_await change_snapshots(context, std::move(change));
    print_kept(context, options, gone.id, gone.name);
  }
}

}  // namespace

Task<Exit> snapshot_delete(const Context& context, SnapshotDeleteOptions options) {
  if (!options.disk.live) {
    if (options.speed != 0) co_await Error(Errc::invalid_argument, "--speed is for a daemon's jobs: give --qmp, too");
    if (options.internal) co_await remove_kept(context, std::move(options));
    else co_await remove_layers(context, nullptr, std::move(options));
    co_return Exit::ok;
  }
  QmpClient client = co_await context.connect();
  client.see_through();                  // a job that was begun is cancelled in order
  auto close = [&client]() -> Task<> { return client.close(); };
  if (options.internal) co_await finally(remove_kept_live(context, client, std::move(options)), close);
  else co_await finally(remove_layers(context, &client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
