// Snapshots of several disks at one moment, or none.  A daemon's are one transaction; files are in use by nobody.
#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/snapshot/commands.hpp"
#include "app/cli/snapshot/overlays.hpp"
#include "base/paths.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

namespace stdfs = std::filesystem;

// What is made of a disk.
struct Made {
  std::string disk, image;               // image: the disk's node; of a file that is to keep it, the snapshot's id
  std::string below;                     // the file that keeps what the disk holds now
  std::string overlay, node;             // the file that is the disk then, and its node
  std::string format;                    // of `below`
};

std::string name_of(const Context& context, const SnapshotCreateOptions& options) {
  if (!options.name.empty()) return options.name;
  constexpr std::int64_t ns_per_s = 1'000'000'000;
  return std::to_string(context.reactor.backend().wall_clock_ns() / ns_per_s);
}

// `beside`: what the disk is now is a file, which others can be beside.  What is in /dev is gone at the host's next start.
Result<> check_named(const SnapshotCreateOptions::Disk& disk, const std::string& below, bool beside) {
  if (beside || !disk.overlay.empty()) return {};
  return Error(Errc::unsupported, fmt::format("disk '{0}' is '{1}', beside which no file can be made; name one with {0}=FILE", disk.name,
                                              below));
}

Task<> choose_overlay(Reactor& reactor, const SnapshotCreateOptions::Disk& disk, std::string stem, const std::string& name,
                      const std::vector<Made>& others, Made& made) {
  made.overlay = disk.overlay;
  if (made.overlay.empty()) made.overlay = (stdfs::path(made.below).parent_path() / fmt::format("{}.{}.qcow2", stem, name)).string();
  co_await check_new_file(reactor, made.overlay);
  for (const Made& other : others)
    if (other.overlay == made.overlay)
      co_await Error(Errc::invalid_argument, fmt::format("two disks would become '{}'; name their files with DISK=FILE", made.overlay));
}

Task<std::vector<Made>> choose_live(const Context& context, QmpClient& client, const SnapshotCreateOptions& options, std::string name) {
  Json nodes = co_await all_nodes(client);
  std::vector<Made> all;
  for (const SnapshotCreateOptions::Disk& disk : options.disks) {
    Made made;
    made.disk = disk.name;
    const std::string top = co_await node_of_disk(client, disk.name);
    made.image = image_below_filters(nodes, top);
    (void)co_await unwrap(node_in(nodes, made.image));
    made.below = file_of_image(nodes, made.image);
    if (!options.internal) {
      const bool beside = made.below.starts_with('/') && storage_driver(nodes, made.image) == "file";
      co_await unwrap(check_named(disk, made.below, beside));
      co_await choose_overlay(context.reactor, disk, disk.name, name, all, made);
      made.node = free_node_name(nodes, made.overlay);
      nodes.push_back(Json::object({{"node-name", made.node}}));
    }
    all.push_back(std::move(made));
  }
  co_return std::move(all);
}

Json transaction_of(const std::vector<Made>& all, const SnapshotCreateOptions& options, const std::string& name) {
  Json actions = Json::array();
  for (const Made& made : all) {
    Json data;
    if (options.internal) data = Json::object({{"device", made.image}, {"name", name}});
    else
      data = Json::object({{"node-name", made.image}, {"snapshot-file", made.overlay}, {"snapshot-node-name", made.node},
                           {"format", "qcow2"}});
    actions.push_back(Json::object({{"type", options.internal ? "blockdev-snapshot-internal-sync" : "blockdev-snapshot-sync"},
                                    {"data", std::move(data)}}));
  }
  return Json::object({{"actions", std::move(actions)}});
}

// Bitmaps that the disk had, and its new node has not.
Task<std::vector<std::string>> bitmaps_left(QmpClient& client, const std::vector<Made>& all) {
  const Json nodes = co_await all_nodes(client);
  std::vector<std::string> left;
  for (const Made& made : all) {
    const Json* before = find_by(nodes, "node-name", made.image);
    const Json* now = find_by(nodes, "node-name", made.node);
    if (!before || !now) continue;
    const std::vector<std::string> have = bitmap_names(*now);
    for (std::string& bitmap : bitmap_names(*before))
      if (std::find(have.begin(), have.end(), bitmap) == have.end()) left.push_back(fmt::format("{}: {}", made.disk, bitmap));
  }
  co_return std::move(left);
}

void print(const Context& context, const SnapshotCreateOptions& options, const std::string& name, const std::vector<Made>& all,
           const std::vector<std::string>& left) {
  Json disks = Json::array(), bitmaps = Json::array();
  for (const Made& made : all) {
    Json told = Json::object({{"disk", made.disk}, {"file", made.below}});
    if (!made.overlay.empty()) told.set("overlay", made.overlay);
    if (!made.node.empty()) told.set("node-name", made.node);
    if (!context.json && options.internal)
      print_line(fmt::format("snapshot '{}' of disk '{}' is kept in '{}'", name, made.disk, made.below));
    if (!context.json && !options.internal)
      print_line(fmt::format("snapshot '{}': '{}' stays as it is, disk '{}' is '{}' now", name, made.below, made.disk, made.overlay));
    disks.push_back(std::move(told));
  }
  for (const std::string& bitmap : left) {
    bitmaps.push_back(bitmap);
    if (!context.json) print_line(fmt::format("a bitmap that stays with the snapshot: {}", bitmap));
  }
  if (!context.json) return;
  Json told = Json::object({{"snapshot", name}, {"internal", options.internal}, {"disks", std::move(disks)}});
  if (!left.empty()) told.set("bitmaps-left", std::move(bitmaps));
  print_json(told);
}

// The disks, with the files that they are then.
std::string places_of(const std::vector<Made>& all) {
  std::string places;
  for (const Made& made : all) {
    places += fmt::format("{}'{}'", places.empty() ? "" : ", ", made.disk);
    if (!made.overlay.empty()) places += fmt::format(" (now '{}')", made.overlay);
  }
  return places;
}

Task<> create_live(const Context& context, QmpClient& client, SnapshotCreateOptions options) {
  const std::string name = name_of(context, options);
  const std::vector<Made> all = co_await choose_live(context, client, options, name);
  std::string disks;
  for (const Made& made : all) disks += (disks.empty() ? "" : " ") + made.disk;
  bool taken = false;
  const std::function<Task<>()> take = [&]() -> Task<> {
    co_await unwrap(context.check_interrupted());
    Json actions = transaction_of(all, options, name);
    co_await client.execute("transaction", std::move(actions));
    taken = true;
  };
  const auto quiesced = co_await while_quiesced(context, options.quiesce, std::move(disks), take).result();
  if (!taken) co_await unwrap(quiesced);
  Result<std::vector<std::string>> left = std::vector<std::string>();
  if (!options.internal) left = co_await bitmaps_left(client, all).result();
  const std::vector<std::string> unknown;
  print(context, options, name, all, left ? *left : unknown);
  if (!quiesced) co_await quiesced.error().with_context(fmt::format("snapshot '{}' of {}", name, places_of(all)));
  co_await unwrap(left);
}

Task<bool> keeps_bitmaps(Reactor& reactor, std::string file, std::string format) {
  const bool store = co_await fs::exists(reactor, store_beside(file));
  if (store || format != "qcow2") co_return store;
  const qcow2::Header header = co_await read_header(reactor, file);
  co_return header.has_bitmaps;
}

Task<Made> choose_file(const Context& context, const SnapshotCreateOptions::Disk& disk, const std::string& name,
                       const std::vector<Made>& others) {
  ImageName top{disk.name, {}};
  top.format = co_await format_of(context.reactor, top, false);
  const std::vector<ImageName> chain = co_await chain_of(context.reactor, top);
  Made made{disk.name, disk.name, disk.name, {}, {}, top.format};
  const FileInfo file = co_await fs::stat(context.reactor, chain.front().name);
  co_await unwrap(check_named(disk, made.below, file.type == FileInfo::Type::regular));
  co_await choose_overlay(context.reactor, disk, stdfs::path(chain.back().name).stem().string(), name, others, made);
  co_await check_not_in_use(context.reactor, disk.name);
  co_return std::move(made);
}

Task<> create_external(const Context& context, SnapshotCreateOptions options, std::string name) {
  std::vector<Made> all;
  std::vector<NewOverlay> overlays;
  std::vector<std::string> left;
  for (const SnapshotCreateOptions::Disk& disk : options.disks) {
    Made made = co_await choose_file(context, disk, name, all);
    overlays.push_back({made.overlay, made.below, made.format});
    const bool bitmaps = co_await keeps_bitmaps(context.reactor, made.below, made.format);
    if (bitmaps) left.push_back(fmt::format("{}: all; the next backup is a full one", made.disk));
    all.push_back(std::move(made));
  }
  co_await make_overlays(context.reactor, std::move(overlays));
  print(context, options, name, all, left);
}

Task<> create_internal(const Context& context, SnapshotCreateOptions options, std::string name) {
  std::vector<Made> all;
  Result<> made;
  ImageSnapshotOptions change;
  change.action = ImageSnapshotOptions::Action::create;
  change.name = name;
  for (std::size_t i = 0; made && i < options.disks.size(); ++i) {
    change.image.name = options.disks[i].name;
    const auto one = co_await change_snapshots(context, change).result();
    if (one) all.push_back({options.disks[i].name, one->id, options.disks[i].name, {}, {}, {}});
    else made = one.error();
  }
  std::string stays;
  change.action = ImageSnapshotOptions::Action::remove;
  for (std::size_t i = 0; !made && i < all.size(); ++i) {
    change.image.name = all[i].disk;
    change.name = "snapshot.id=" + all[i].image;          // a name can be there twice
    const auto removed = co_await change_snapshots(context, change).result();
    if (removed) continue;
    stays += fmt::format("; '{}' keeps the snapshot with the id {}: {}", all[i].disk, all[i].image, removed.error().message());
  }
  if (!stays.empty()) co_await Error(made.error().code(), made.error().message() + stays);
  co_await unwrap(made);
  const std::vector<std::string> none;
  print(context, options, name, all, none);
}

}  // namespace

Task<Exit> snapshot_create(const Context& context, SnapshotCreateOptions options) {
  if (!options.live) {
    if (!options.quiesce.command.empty()) co_await Error(Errc::invalid_argument, "--quiesce is for disks in use: give --qmp, too");
    std::string name = name_of(context, options);
    if (options.internal) co_await create_internal(context, std::move(options), std::move(name));
    else co_await create_external(context, std::move(options), std::move(name));
    co_return Exit::ok;
  }
  for (SnapshotCreateOptions::Disk& disk : options.disks)
    if (!disk.overlay.empty()) disk.overlay = absolute_path(disk.overlay);
  QmpClient client = co_await context.connect();
  client.see_through();                  // what was asked for is known to have been done, or not
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(create_live(context, client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
