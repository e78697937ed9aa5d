// A disk becomes one of its snapshots again: a daemon's by a command of its own, or files that nobody uses.
//
// Invariant: interrupted anywhere the disk is what it was, or the snapshot.  No bitmap that knew the disk before claims to know what
// it is now: those of a new overlay are none, a store beside an image that is replaced goes, and an image that holds bitmaps is
// not changed (docs/decisions/0007-bitmaps-in-qcow2.md).
#include <filesystem>

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/chain/others.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "app/cli/snapshot/overlays.hpp"
#include "app/new_file.hpp"
#include "base/paths.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

// Whoever stands on the disk's file reads from it what it held until now.
Task<> check_nobody_above(Reactor& reactor, std::string file, bool can_stay) {
  const std::string above = co_await file_that_stands_on(reactor, file);
  if (above.empty()) co_return;
  const char* const or_else = can_stay ? ", or give --overlay" : "";
  co_await Error(Errc::busy, fmt::format("'{}' stands on '{}', and would change with it; rebase or remove it first{}", above, file,
                                         or_else));
}

// What the top's file keeps goes with it; it is held.
Task<> check_replaceable_top(Reactor& reactor, std::string top) {
  ImageName image{top, "qcow2"};
  const qcow2::Header header = co_await read_header(reactor, top);
  if (header.geometry.external_data)
    co_await Error(Errc::unsupported, fmt::format("'{}' keeps its data in a file of its own; give --overlay", top));
  const auto kept = co_await snapshots_in(reactor, std::move(image), true);
  if (!kept.empty())
    co_await Error(Errc::busy, fmt::format("'{}' keeps the internal snapshot '{}', which would be lost; delete it first, or give --overlay",
                                           top, kept.front().name));
}

// A guest that started before the new file has its name would go on with one that has none.
Task<> replace_top(Reactor& reactor, NewOverlay overlay) {
  NewFile file = co_await NewFile::begin(reactor, overlay.file);
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    (void)co_await hold_file(session, overlay.file);
    co_await check_replaceable_top(reactor, overlay.file);
    co_await check_nobody_above(reactor, overlay.file, true);
    co_await file.make_partial();
    co_await make_overlay(reactor, overlay, file.partial());
    co_await file.publish();                 // and held, so that the store that goes is nobody's who has it by then
    co_await remove_store_left_over(reactor, overlay.file);
  };
  const auto replaced = co_await in_session<void>(reactor, body).result();
  if (!replaced) (void)co_await file.discard().result();
  (void)co_await file.let_go().result();
  co_await unwrap(replaced);
}

void print(const Context& context, const SnapshotRevertOptions& options, const std::string& snapshot, const std::string& file) {
  if (context.json) print_json(Json::object({{"disk", options.disk.top}, {"snapshot", snapshot}, {"file", file}}));
  else print_line(fmt::format("disk '{}' is snapshot {} again, in '{}'; its next backup is a full one", options.disk.top, snapshot, file));
}

Task<std::size_t> choose_layer(const Json& layers, const SnapshotRevertOptions& options) {
  const std::size_t layer = co_await unwrap(find_layer(layers, options.disk, options.snapshot));
  if (layer == 0)
    co_await Error(Errc::invalid_argument, fmt::format("{} is the disk as it is, no snapshot; snapshots begin with {}",
                                                       layer_name(options.disk, 0), layer_name(options.disk, 1)));
  co_return layer;
}

Task<> revert_to_layer(const Context& context, SnapshotRevertOptions options) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.disk, none);
  const Json& layers = *cost.find("layers");
  const std::size_t layer = co_await choose_layer(layers, options);
  const Json& below = items(layers)[layer];
  NewOverlay overlay{options.overlay, text(below, "filename"), text(below, "driver")};
  if (options.discard) overlay.file = text(items(layers)[0], "filename");
  const std::string file = overlay.file;
  if (options.discard) co_await replace_top(context.reactor, std::move(overlay));
  else {
    co_await check_new_file(context.reactor, file);
    std::vector<NewOverlay> one{std::move(overlay)};
    co_await make_overlays(context.reactor, std::move(one));
  }
  print(context, options, layer_name(options.disk, layer), file);
}

Task<> revert_to_kept(const Context& context, SnapshotRevertOptions options) {
  if (auto file = local_path(options.disk.top)) co_await check_nobody_above(context.reactor, *std::move(file), false);
  ImageSnapshotOptions change;
  change.action = ImageSnapshotOptions::Action::apply;
  change.image.name = options.disk.top;
  change.name = options.snapshot;
  const Qcow2Snapshot applied = co_await change_snapshots(context, std::move(change));
  print(context, options, fmt::format("'{}'", applied.name), options.disk.top);
}

// What a daemon is to do with a node, and what people are told of it.
struct NodeRevert {
  std::string node, snapshot, file, next;    // next: the node that the disk is then
  Json arguments;
};

Task<NodeRevert> to_kept(const Json& nodes, const SnapshotRevertOptions& options, std::string node) {
  NodeRevert revert;
  (void)co_await unwrap(node_in(nodes, node));
  revert.snapshot = fmt::format("'{}'", options.snapshot);
  revert.file = file_of_image(nodes, node);
  revert.arguments = Json::object({{"node-name", node}, {"mode", "internal"}, {"snapshot", options.snapshot}});
  revert.node = revert.next = std::move(node);
  co_return std::move(revert);
}

Task<NodeRevert> to_layer(const Context& context, const Json& nodes, const SnapshotRevertOptions& options, std::string node) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.disk, none);
  const Json& layers = *cost.find("layers");
  const std::size_t layer = co_await choose_layer(layers, options);
  NodeRevert revert;
  revert.snapshot = layer_name(options.disk, layer);
  revert.file = options.discard ? text(items(layers)[0], "filename") : options.overlay;
  revert.next = free_node_name(nodes, revert.file);
  revert.arguments = Json::object({{"node-name", node}, {"mode", options.discard ? "discard" : "overlay"},
                                   {"snapshot", text(items(layers)[layer], "node-name")}, {"overlay-node-name", revert.next}});
  if (!options.discard) revert.arguments.set("overlay-file", options.overlay);
  revert.node = std::move(node);
  co_return std::move(revert);
}

Task<> revert_live(const Context& context, QmpClient& client, SnapshotRevertOptions options) {
  const std::string top = co_await node_of_disk(client, options.disk.top);
  const Json nodes = co_await all_nodes(client);
  NodeRevert revert;
  if (options.internal) revert = co_await to_kept(nodes, options, image_below_filters(nodes, top));
  else revert = co_await to_layer(context, nodes, options, image_below_filters(nodes, top));
  co_await client.execute("blockdev-snapshot-revert", std::move(revert.arguments));
  LeftNode left;
  if (!options.internal) left = co_await let_go_of(client, revert.node, revert.next);
  print(context, options, revert.snapshot, revert.file);
  if (left.there && !context.json) print_line(fmt::format("node '{}', which it was, is still there", revert.node));
}

}  // namespace

Task<Exit> snapshot_revert(const Context& context, SnapshotRevertOptions options) {
  if (options.internal && (options.discard || !options.overlay.empty()))
    co_await Error(Errc::invalid_argument, "--overlay and --discard are for layers, not for --internal snapshots");
  if (!options.internal && !options.discard && options.overlay.empty())
    co_await Error(Errc::invalid_argument, "what becomes of what was written since? --discard empties the disk's file; --overlay FILE "
                                           "leaves it, and FILE is the disk");
  if (options.disk.live) {
    if (!options.overlay.empty()) options.overlay = absolute_path(options.overlay);
    QmpClient client = co_await context.connect();
    client.see_through();                // what was asked for is known to have been done, or not
    auto close = [&client]() -> Task<> { return client.close(); };
    co_await finally(revert_live(context, client, std::move(options)), close);
    co_return Exit::ok;
  }
  if (options.internal) co_await revert_to_kept(context, std::move(options));
  else co_await revert_to_layer(context, std::move(options));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
