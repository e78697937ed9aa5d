// Snapshots are deleted: what is between one and the next younger state becomes one layer, and all other states stay readable.
//
// What a layer K keeps goes when K is pulled into the one above, or that one is committed to K; committing K itself would
// destroy the state below it.  The deepest goes first: then the numbers of the others stay.
//
// Invariant: numbers are of the chain as it was when the verb began; once it is not what this verb has made of it nothing more is
// deleted.  What other images may stand on is written to only when asked for.
#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/chain/others.hpp"
#include "app/cli/chain/steps.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

using Way = SnapshotDeleteOptions::Way;

// What was deleted, for programs: one document, a list when several are to go.
class Told {
 public:
  Told(const Context& context, bool several) : context_(context), several_(several) {}
  bool for_programs() const noexcept { return context_.json; }
  void add(Json one) { all_.push_back(std::move(one)); }
  void print() const {
    if (!context_.json || (!several_ && items(all_).empty())) return;
    print_json(several_ ? all_ : items(all_).front());
  }

 private:
  const Context& context_;
  const bool several_;
  Json all_ = Json::array();
};

Removal step_of(std::size_t snapshot, bool commits) {
  const std::size_t gone = commits ? snapshot - 1 : snapshot;
  return {commits, gone, gone};
}

// A file's name is what people start guests with: it stays the disk unless they say otherwise.
Task<Removal> choose(const Context& context, QmpClient* client, const Json& layers, std::size_t snapshot, Way way) {
  const bool cheaper = number(items(layers)[snapshot - 1], "commit") < number(items(layers)[snapshot], "pull");
  bool commits = way == Way::commit;
  const bool stays_in_size = snapshot > 1 || !would_grow(layers, snapshot);
  if (way == Way::cheapest && cheaper && stays_in_size && (client || snapshot > 1)) {
    const bool others = co_await others_may_stand_on(context, client, layers, snapshot);
    commits = !others;
  }
  co_return step_of(snapshot, commits);
}

// What tells the layers of a chain apart: files are called otherwise by one image than by another.
std::vector<std::string> names_of(const Json& layers, bool live) {
  std::vector<std::string> names;
  for (const Json& layer : items(layers)) {
    std::error_code error;
    const std::string real = std::filesystem::canonical(text(layer, "filename"), error).string();
    names.push_back(live ? text(layer, "node-name") : error ? text(layer, "filename") : real);
  }
  return names;
}

void print(Told& deleted, const SnapshotDeleteOptions& options, const Json::Array& layers, std::size_t snapshot, Removal step,
           const LeftNode& left) {
  const Json& gone = layers[step.first];
  const bool new_top = step.commit && step.first == 0;
  if (deleted.for_programs()) {
    Json told = Json::object({{"disk", options.disk.top}, {"snapshot", text(layers[snapshot], "layer")},
                              {"action", step.commit ? "commit" : "pull"}, {"file", text(gone, "filename")}});
    told.set("top", text(layers[new_top ? step.into() : 0], "filename"));
    if (!left.bitmaps.empty()) {
      Json bitmaps = Json::array();
      for (const std::string& bitmap : left.bitmaps) bitmaps.push_back(bitmap);
      told.set("bitmaps-left", std::move(bitmaps));
    }
    return deleted.add(std::move(told));
  }
  print_line(fmt::format("deleted snapshot {}: '{}' is not part of the disk any more", text(layers[snapshot], "layer"),
                         text(gone, "filename")));
  if (new_top) print_line(fmt::format("disk '{}' is '{}' now", options.disk.top, text(layers[step.into()], "filename")));
  for (const std::string& bitmap : left.bitmaps) print_line(fmt::format("a bitmap that did not go along: {}", bitmap));
}

// `expected`: the chain's layers, of which one goes.
Task<> remove_layer(const Context& context, QmpClient* client, const SnapshotDeleteOptions& options, std::size_t snapshot,
                    std::vector<std::string>& expected, Told& told) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.disk, none);
  const Json& layers = *cost.find("layers");
  const Json::Array& all = items(layers);
  if (names_of(layers, client != nullptr) != expected)
    co_await Error(Errc::busy, fmt::format("somebody else has changed the chain of '{}'; look at it with 'tidemark snapshot list', and "
                                           "delete what is to go by its number there", options.disk.top));
  const Removal step = co_await choose(context, client, layers, snapshot, options.way);
  std::vector<Removal> steps{step};
  co_await check_steps(context, client, layers, std::move(steps));          // those before have changed what this one is of
  const LeftNode left = co_await carry_out(context, client, layers, step, options.speed);
  print(told, options, all, snapshot, step, left);
  expected.erase(expected.begin() + static_cast<std::ptrdiff_t>(step.first));
}

Task<> remove_layers(const Context& context, QmpClient* client, SnapshotDeleteOptions options, Told& told) {
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
  std::vector<Removal> steps;              // a commit, which a pull may be instead, concerns the same layer
  for (const std::size_t layer : found) steps.push_back(step_of(layer, options.way == Way::commit));
  co_await check_steps(context, client, *cost.find("layers"), std::move(steps));
  std::vector<std::string> expected = names_of(*cost.find("layers"), client != nullptr);
  for (const std::size_t layer : found) co_await remove_layer(context, client, options, layer, expected, told);
}

void print_kept(Told& told, const SnapshotDeleteOptions& options, const std::string& id, const std::string& name) {
  if (told.for_programs()) told.add(Json::object({{"disk", options.disk.top}, {"id", id}, {"name", name}}));
  else print_line(fmt::format("deleted snapshot '{}' with the id {}", name, id));
}

std::vector<Qcow2Snapshot> kept_in(const Json* told) {
  std::vector<Qcow2Snapshot> all;
  if (!told) return all;
  for (const Json& one : items(*told)) {
    all.emplace_back().id = text(one, "id");
    all.back().name = text(one, "name");
  }
  return all;
}

Task<> remove_kept_live(QmpClient& client, SnapshotDeleteOptions options, Told& told) {
  const std::string top = co_await node_of_disk(client, options.disk.top);
  for (const std::string& word : options.snapshots) {
    const Json nodes = co_await all_nodes(client);
    const std::string node = image_below_filters(nodes, top);
    const Json entry = co_await unwrap(node_in(nodes, node));
    const Json* image = entry.find("image");
    const Json* kept = image ? image->find("snapshots") : nullptr;
    auto id = choose_for_deletion(kept_in(kept), word);
    if (!id && id.error().code() == Errc::not_found)
      co_await Error(Errc::not_found, fmt::format("the image of '{}' keeps no snapshot '{}'", options.disk.top, word));
    const std::string which = co_await unwrap(std::move(id));
    const Json* found = find_by(*kept, "id", which);
    Json arguments = Json::object({{"device", node}, {"id", text(*found, "id")}, {"name", text(*found, "name")}});
    co_await client.execute("blockdev-snapshot-delete-internal-sync", std::move(arguments));
    print_kept(told, options, text(*found, "id"), text(*found, "name"));
  }
}

Task<> remove_kept(const Context& context, SnapshotDeleteOptions options, Told& told) {
  for (const std::string& word : options.snapshots) {
    ImageSnapshotOptions change;
    change.action = ImageSnapshotOptions::Action::remove;
    change.image.name = options.disk.top;
    change.name = word;
    const Qcow2Snapshot gone = co_await change_snapshots(context, std::move(change));
    print_kept(told, options, gone.id, gone.name);
  }
}

Task<> remove_live_ones(const Context& context, SnapshotDeleteOptions options, Told& told) {
  QmpClient client = co_await context.connect();
  client.see_through();                  // a job that was begun is cancelled in order
  auto close = [&client]() -> Task<> { return client.close(); };
  if (options.internal) co_await finally(remove_kept_live(client, std::move(options), told), close);
  else co_await finally(remove_layers(context, &client, std::move(options), told), close);
}

}  // namespace

Task<Exit> snapshot_delete(const Context& context, SnapshotDeleteOptions options) {
  if (!options.disk.live && options.speed != 0) co_await Error(Errc::invalid_argument, "--speed is for a daemon's jobs: give --qmp, too");
  Told told(context, options.snapshots.size() > 1);
  Result<> done;
  if (options.disk.live) done = co_await remove_live_ones(context, std::move(options), told).result();
  else if (options.internal) done = co_await remove_kept(context, std::move(options), told).result();
  else done = co_await remove_layers(context, nullptr, std::move(options), told).result();
  told.print();
  co_await unwrap(done);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
