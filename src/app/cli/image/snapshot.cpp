// What is made, applied or deleted is one change of the image's header: cut off anywhere there is the image before it
// or after it.
#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"
#include "control/nodes/tracking_stores.hpp"

namespace tidemark::cli {
namespace {

using Action = ImageSnapshotOptions::Action;

Task<Exit> list(const Context& context, const ImageSnapshotOptions& options) {
  const auto snapshots = co_await snapshots_in(context.reactor, options.image, options.force_share);
  if (!context.json) {
    if (!snapshots.empty()) print_lines(snapshot_table(snapshots));
    co_return Exit::ok;
  }
  Json all = Json::array();
  for (const Qcow2Snapshot& snapshot : snapshots) {
    all.push_back(to_json(snapshot));
    all.as_array().back().set("disk-size", snapshot.disk_size);
  }
  print_json(all);
  co_return Exit::ok;
}

Task<Qcow2Snapshot> create(const Context& context, Qcow2Driver& image, std::string name) {
  constexpr std::int64_t ns_per_s = 1'000'000'000;
  const std::int64_t now = context.reactor.backend().wall_clock_ns();
  Qcow2Snapshot wanted;
  wanted.name = std::move(name);
  wanted.date_seconds = static_cast<std::uint32_t>(now / ns_per_s);
  wanted.date_nanoseconds = static_cast<std::uint32_t>(now % ns_per_s);
  co_await image.create_snapshot(wanted);
  co_return image.snapshots().back();
}

// Bitmaps would not know what becomes of the disk.
Task<> check_no_bitmaps(Qcow2Driver& image) {
  const auto bitmaps = co_await image.bitmap_entries();
  if (!bitmaps.empty())
    co_await Error(Errc::busy, fmt::format("the image holds bitmaps, '{}' for one, that would not know what changes; remove them first",
                                           bitmaps.front().name));
}

// Before the image is opened, which says that they do not count any more.
Task<> check_none_left_over(Reactor& reactor, std::string path) {
  const qcow2::Header header = co_await read_header(reactor, path);
  const auto left = co_await bitmaps_left_over(reactor, header, path);
  if (!left.empty())
    co_await Error(Errc::busy, fmt::format("its tracking store holds bitmaps, '{}' for one, that would not know what changes; remove "
                                           "'{}' to go on without them", left.front(), store_beside(path)));
}

Task<Qcow2Snapshot> change(const Context& context, Qcow2Driver& image, const ImageSnapshotOptions& options) {
  if (options.action == Action::create) co_return co_await create(context, image, options.name);
  const auto snapshots = image.snapshots();
  const auto choose = options.action == Action::remove ? choose_for_deletion : choose_snapshot;
  const std::string id = co_await unwrap(choose(snapshots, options.name));
  const std::size_t which = co_await unwrap(image.find_snapshot(id));
  if (options.action == Action::apply) {
    co_await check_no_bitmaps(image);
    // Version 2 has nothing by which a store that a crash left would see that the content has changed.
    if (auto path = local_path(options.image.name)) co_await remove_store_left_over(context.reactor, *std::move(path));
    co_await image.apply_snapshot(id);
  } else {
    co_await image.delete_snapshot(id);
  }
  co_return snapshots[which];
}

const char* verb_of(Action action) {
  switch (action) {
    case Action::create: return "create";
    case Action::apply: return "apply";
    default: return "delete";
  }
}

}  // namespace

Task<Qcow2Snapshot> change_snapshots(const Context& context, ImageSnapshotOptions options) {
  const std::string format = co_await format_of(context.reactor, options.image, false);
  if (format != "qcow2")
    co_await Error(Errc::unsupported, fmt::format("'{}': only qcow2 images have internal snapshots", options.image.name));
  const auto path = local_path(options.image.name);
  if (path && options.action == Action::apply) co_await check_none_left_over(context.reactor, *path);
  std::function<Task<Qcow2Snapshot>(Session&)> body = [&](Session& session) -> Task<Qcow2Snapshot> {
    Qcow2OpenOptions open;
    open.keeps_content = true;
    Qcow2Driver* image = co_await session.open_qcow2(options.image.name, open);
    co_return co_await change(context, *image, options);
  };
  auto changed = co_await in_session<Qcow2Snapshot>(context.reactor, body, context.interrupted).result();
  if (!changed) co_await changed.error().with_context(fmt::format("Could not {} snapshot '{}'", verb_of(options.action), options.name));
  co_return *std::move(changed);
}

Task<Exit> image_snapshot(const Context& context, ImageSnapshotOptions options) {
  if (options.action == Action::list) {
    const std::string format = co_await format_of(context.reactor, options.image, false);
    if (format != "qcow2")
      co_await Error(Errc::unsupported, fmt::format("'{}': only qcow2 images have internal snapshots", options.image.name));
    co_return co_await list(context, options);
  }
  if (options.force_share) co_await Error(Errc::invalid_argument, "--force-share is only for --list");
  const Qcow2Snapshot changed = co_await change_snapshots(context, options);
  if (context.json) {
    Json json = to_json(changed);
    json.set("disk-size", changed.disk_size);
    print_json(json);
  } else {
    const char* done = options.action == Action::apply ? "applied" : options.action == Action::create ? "created" : "deleted";
    print_line(fmt::format("{} snapshot '{}' with the id {}", done, changed.name, changed.id));
  }
  co_return Exit::ok;
}

}  // namespace tidemark::cli
