// A disk becomes one of its snapshots again, in files that nobody uses.
//
// Invariant: interrupted anywhere the disk is what it was, or the snapshot.  No bitmap that knew the disk before claims to know what
// it is now: those of a new overlay are none, a store beside an image that is replaced goes, and an image that holds bitmaps is
// not changed (docs/decisions/0007-bitmaps-in-qcow2.md).
#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/new_file.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "app/cli/snapshot/overlays.hpp"
#include "control/tracking_stores.hpp"

namespace tidemark::cli {
namespace {

// A guest, or what else has the disk open, would see its content change.
Error in_use(const SnapshotRevertOptions& options) {
  return Error(Errc::busy, fmt::format("disk '{0}' is a running daemon's, whose guest would see it change: end the guest and the daemon "
                                       "('tidemark qmp quit'), and revert the file, without --qmp and TIDEMARK_QMP", options.disk.top));
}

// What the top's file keeps goes with it.
Task<> check_replaceable_top(Reactor& reactor, std::string top) {
  ImageName image{top, "qcow2"};
  const qcow2::Header header = co_await read_header(reactor, top);
  if (header.geometry.external_data)
    co_await Error(Errc::unsupported, fmt::format("'{}' keeps its data in a file of its own; give --overlay", top));
  const auto kept = co_await snapshots_in(reactor, std::move(image), false);
  if (!kept.empty())
    co_await Error(Errc::busy, fmt::format("'{}' keeps the internal snapshot '{}', which would be lost; delete it first, or give --overlay",
                                           top, kept.front().name));
}

Task<> replace_top(Reactor& reactor, NewOverlay overlay) {
  co_await check_replaceable_top(reactor, overlay.file);
  auto make = [&](std::string partial) -> Task<> { co_await make_overlay(reactor, overlay, std::move(partial)); };
  co_await make_file(reactor, overlay.file, make);
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
    co_await remove_store_left_over(context.reactor, file);
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

}  // namespace

Task<Exit> snapshot_revert(const Context& context, SnapshotRevertOptions options) {
  if (options.disk.live) co_await in_use(options);
  if (options.internal && (options.discard || !options.overlay.empty()))
    co_await Error(Errc::invalid_argument, "--overlay and --discard are for layers, not for --internal snapshots");
  if (!options.internal && !options.discard && options.overlay.empty())
    co_await Error(Errc::invalid_argument, "what becomes of what was written since? --discard empties the disk's file; --overlay FILE "
                                           "leaves it, and FILE is the disk");
  if (options.internal) co_await revert_to_kept(context, std::move(options));
  else co_await revert_to_layer(context, std::move(options));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
