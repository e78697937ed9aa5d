// A disk becomes one of its snapshots again, in files that nobody uses, or that a daemon has open and nobody is served.
//
// Invariant: interrupted anywhere the disk is what it was, or the snapshot.  No bitmap that knew the disk before claims to know what
// it is now: those of a new overlay are none, a store beside an image that is replaced goes, and an image that holds bitmaps is
// not changed (docs/decisions/0007-bitmaps-in-qcow2.md).
#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/new_file.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "app/cli/snapshot/overlays.hpp"
#include "control/tracking_stores.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

// A guest would see the content of its disk change.
Task<> check_not_exported(QmpClient& client, std::string disk, std::string node) {
  const Json exports = co_await client.execute("query-block-exports");
  const Json* shown = find_by(exports, "node-name", node);
  if (!shown) co_return;
  constexpr const char* what_to_do =
      "end the guest and the daemon ('tidemark qmp quit'), and revert the file without --qmp and TIDEMARK_QMP; or remove the export "
      "('tidemark qmp block-export-del id={}', refused while a guest is connected), revert node '{}', and export it again";
  const std::string how = fmt::format(what_to_do, text(*shown, "id"), node);
  co_await Error(Errc::busy, fmt::format("disk '{}' is exported, and would change under its guest: {}", disk, how));
}

Task<> set_active(QmpClient& client, std::string node, bool active) {
  Json arguments = Json::object({{"node-name", std::move(node)}, {"active", active}});
  co_await client.execute("blockdev-set-active", std::move(arguments));
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
    auto make = [&](std::string partial) -> Task<> { co_await make_overlay(reactor, overlay, std::move(partial)); };
    co_await make_file(file, make);
  };
  co_await in_session<void>(reactor, body);
  co_await remove_store_left_over(reactor, overlay.file);
}

void print(const Context& context, const SnapshotRevertOptions& options, const std::string& snapshot, const std::string& file) {
  if (context.json) print_json(Json::object({{"disk", options.disk.top}, {"snapshot", snapshot}, {"file", file}}));
  else print_line(fmt::format("disk '{}' is snapshot {} again, in '{}'; its next backup is a full one", options.disk.top, snapshot, file));
}

Task<> revert_to_layer(const Context& context, SnapshotRevertOptions options) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.disk, none);
  const Json& layers = *cost.find("layers");
  const std::size_t layer = co_await unwrap(find_layer(layers, options.disk, options.snapshot));
  if (layer == 0)
    co_await Error(Errc::invalid_argument, fmt::format("{} is the disk as it is, no snapshot; snapshots begin with {}",
                                                       layer_name(options.disk, 0), layer_name(options.disk, 1)));
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
  ImageSnapshotOptions change;
  change.action = ImageSnapshotOptions::Action::apply;
  change.image.name = options.disk.top;
  change.name = options.snapshot;
  const Qcow2Snapshot applied = co_await change_snapshots(context, std::move(change));
  print(context, options, fmt::format("'{}'", applied.name), options.disk.top);
}

// The daemon lets go of the image meanwhile, and reads it anew; it refuses to while anybody uses the node.
Task<> revert_node_to_kept(const Context& context, QmpClient& client, SnapshotRevertOptions options) {
  const Json nodes = co_await all_nodes(client);
  const Json node = co_await unwrap(node_in(nodes, options.disk.top));
  const std::string name = options.disk.top;
  options.disk.top = text(node, "file");
  if (!options.disk.top.starts_with('/'))
    co_await Error(Errc::unsupported, fmt::format("node '{}' is '{}', where the daemon sees it; remove it ('tidemark qmp blockdev-del'), "
                                                  "and revert the file without --qmp and TIDEMARK_QMP", name, options.disk.top));
  co_await set_active(client, name, false);
  auto activate = [&]() -> Task<> { return set_active(client, name, true); };
  co_await finally(revert_to_kept(context, std::move(options)), activate);
}

Task<> revert_live(const Context& context, QmpClient& client, SnapshotRevertOptions options) {
  std::string node = co_await node_of_disk(client, options.disk.top);
  co_await check_not_exported(client, options.disk.top, node);
  if (!options.internal)
    co_await Error(Errc::unsupported, fmt::format("node '{}' stays on its layers: remove it ('tidemark qmp blockdev-del'), revert the file "
                                                  "without --qmp and TIDEMARK_QMP, and add what is the disk then", node));
  options.disk.top = std::move(node);
  co_await revert_node_to_kept(context, client, std::move(options));
}

}  // namespace

Task<Exit> snapshot_revert(const Context& context, SnapshotRevertOptions options) {
  if (options.internal && (options.discard || !options.overlay.empty()))
    co_await Error(Errc::invalid_argument, "--overlay and --discard are for layers, not for --internal snapshots");
  if (!options.internal && !options.discard && options.overlay.empty())
    co_await Error(Errc::invalid_argument, "what becomes of what was written since? --discard empties the disk's file; --overlay FILE "
                                           "leaves it, and FILE is the disk");
  if (options.disk.live) {
    QmpClient client = co_await context.connect();
    client.see_through();                // what the daemon let go of it takes again
    auto close = [&client]() -> Task<> { return client.close(); };
    co_await finally(revert_live(context, client, std::move(options)), close);
    co_return Exit::ok;
  }
  if (options.internal) co_await revert_to_kept(context, std::move(options));
  else co_await revert_to_layer(context, std::move(options));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
