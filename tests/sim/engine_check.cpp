// What is to be true of a machine that was started again, and of one that was cleaned up.
#include "io/file.hpp"
#include "tests/sim/engine_session.hpp"
#include "tests/sim/qcow2_check.hpp"

namespace tidemark::sim {
namespace {

// The first sector that is not what it was at the point and is not dirty.
bool is_dirty(const NodeBitmap& bitmap, std::uint64_t offset) { return bitmap.bits().test(offset); }
bool is_dirty(const StoredBitmap& bitmap, std::uint64_t offset) {
  const std::uint64_t granule = offset / bitmap.granularity;
  return granule < bitmap.granules.size() && bitmap.granules[granule];
}

template <class Bitmap>
std::optional<std::uint64_t> missing(const Bitmap& bitmap, const Stamps& now, const Point& point) {
  for (std::size_t i = 0; i < now.size(); ++i)
    if (!point.allows(i, now[i]) && !is_dirty(bitmap, i * sector)) return i * sector;
  return std::nullopt;
}

template <class Bitmap>
std::optional<std::uint64_t> missing(const Bitmap& bitmap, const Stamps& now, const BitmapState& state) {
  for (const PointPtr& point : state.since)
    if (const auto at = missing(bitmap, now, *point)) return at;
  return std::nullopt;
}

}  // namespace

Task<> Session::check_after_start() {
  for (Guest& guest : guests_) {
    co_await check_content(guest);
    BlockNode* node = co_await unwrap(daemon_->graph().lookup(guest.disk.plan.node));
    const Result<> right = check_bitmaps(guest.disk, *node);
    if (!right) complain("disk " + guest.disk.plan.node + ": " + right.error().message());
    co_await unwrap(right);
    co_await remove_inconsistent(guest.disk, *node);
    guest.disk.store_failed = guest.disk.tracking_ended = false;
  }
  const auto done = machine_.done;
  for (const auto& [path, backup] : done)
    if (random_.chance(1, 2) || is_under_way(path)) co_await compare(backup);
  for (MachineDisk& disk : machine_.disks) co_await clean_up_chain(disk);
  std::vector<std::string> litter(machine_.litter.begin(), machine_.litter.end());
  co_await drop_files(std::move(litter));
}

// Nothing else can be done with them.
Task<> Session::remove_inconsistent(MachineDisk& disk, BlockNode& node) {
  std::vector<std::string> names;
  for (const auto& bitmap : node.bitmaps().all())
    if (bitmap->inconsistent()) names.push_back(bitmap->name());
  for (const std::string& name : names) {
    Json bitmap = Json::object({{"node", disk.plan.node}, {"name", name}});
    const Result<Json> removed = co_await execute("block-dirty-bitmap-remove", std::move(bitmap));
    co_await unwrap(tolerate(removed, disk));
    disk.bitmaps.erase(name);
  }
}

bool Session::is_under_way(const std::string& target) const {
  const auto is = [&](const MachineDisk& disk) { return disk.own.under_way == target || disk.incremental.under_way == target; };
  return machine_.litter.contains(target) || std::ranges::any_of(machine_.disks, is);
}

Task<> Session::check_content(Guest& guest) {
  const MachineDisk& disk = guest.disk;
  Result<Stamps> seen = co_await read(*guest.edge).result();
  while (!seen && disk.may_fail && alive()) seen = co_await read(*guest.edge).result();
  Result<> right;
  if (!seen) right = seen.error();
  else right = disk.content.check(*seen);
  if (right && disk.plan.format == "qcow2") right = check_qcow2(world_.disk().file(disk.plan.path)->visible());
  if (!right) complain("disk " + disk.plan.node + ": " + right.error().message());
  co_await unwrap(right);
  guest.disk.content.restart(*seen, !plan_.after_kill);
}

Result<> Session::check_bitmaps(MachineDisk& disk, BlockNode& node) {
  const Stamps& now = disk.content.visible();
  if (plan_.after_crash || plan_.after_kill) std::erase_if(disk.bitmaps, [](const auto& entry) { return !entry.second.persistent; });
  for (auto& [name, model] : disk.bitmaps) {
    const NodeBitmap* bitmap = node.bitmaps().find(name);
    if (disk.tracking_ended && (!bitmap || bitmap->inconsistent())) continue;
    // Of a store that is gone the image knows what it had.
    if (disk.store_failed && disk.plan.format == "qcow2" && bitmap && bitmap->inconsistent()) continue;
    if (bitmap && bitmap->inconsistent())
      return Error(Errc::corrupt, "bitmap " + name + " is inconsistent: " + bitmap->inconsistent_reason());
    std::optional<std::uint64_t> lost;
    std::erase_if(model.may_be, [&](const BitmapState& state) {
      if (!bitmap || !state.there) return (bitmap != nullptr) != state.there;
      if (bitmap->recording() != state.recording) return true;
      const auto at = missing(*bitmap, now, state);
      if (at) lost = at;
      return at.has_value();
    });
    if (!model.may_be.empty() || (!bitmap && disk.store_failed)) continue;
    if (lost)
      return Error(Errc::corrupt, "bitmap " + name + " has lost the change at " + std::to_string(*lost) + " to stamp " +
                                      std::to_string(now[*lost / sector]));
    return Error(Errc::corrupt, "bitmap " + name + (bitmap ? " is there, and should not be or not like this" : " is gone"));
  }
  std::erase_if(disk.bitmaps, [&](const auto& entry) { return !node.bitmaps().find(entry.first); });
  for (const auto& bitmap : node.bitmaps().all())
    if (!bitmap->inconsistent() && !disk.bitmaps.contains(bitmap->name()))
      return Error(Errc::corrupt, "bitmap " + bitmap->name() + " was left behind");
  return {};
}

// After an orderly end the image has all bitmaps itself, for others to believe.
Result<> Session::check_stored(const MachineDisk& disk) {
  if (disk.plan.format != "qcow2") return {};
  const SparseContent& file = world_.disk().file(disk.plan.path)->visible();
  const auto stored = bitmaps_in_qcow2(file);
  if (!stored) return stored.error();
  if (autoclear_of_qcow2(file) > 1) return Error(Errc::corrupt, "the image is closed and still marked");
  const auto& all = *stored;
  for (const auto& [name, model] : disk.bitmaps) {
    const auto found = std::ranges::find(all, name, &StoredBitmap::name);
    const StoredBitmap* bitmap = found == all.end() ? nullptr : &*found;
    const bool right = std::ranges::any_of(model.may_be, [&](const BitmapState& state) {
      if (!bitmap || !state.there) return (bitmap != nullptr) == state.there;
      return !bitmap->in_use && bitmap->enabled == state.recording && !missing(*bitmap, disk.content.visible(), state);
    });
    if (!right) return Error(Errc::corrupt, "bitmap " + name + (bitmap ? " is not in the image as it should be" : " is not in the image"));
  }
  for (const StoredBitmap& bitmap : all)
    if (!bitmap.in_use && !disk.bitmaps.contains(bitmap.name))
      return Error(Errc::corrupt, "bitmap " + bitmap.name + " was left behind in the image");
  return check_qcow2(file);
}

bool Session::present(const MachineDisk& disk, const std::string& bitmap) {
  BlockNode* node = daemon_->graph().find(disk.plan.node);
  return node && disk.bitmaps.contains(bitmap) && node->bitmaps().find(bitmap);
}

// What nobody knows to be finished goes, but for a target that may have taken bits: it becomes part of its chain,
// and is of use if it did.
Task<> Session::clean_up_chain(MachineDisk& disk) {
  std::string unpublished = std::exchange(disk.own.under_way, "");
  co_await drop_file(std::move(unpublished));
  std::vector<std::string> litter;
  for (const auto& [name, bitmap] : disk.bitmaps)
    if (name.starts_with("point") && name != disk.own.bitmap) litter.push_back(name);
  for (std::string& name : litter) co_await remove(disk, std::move(name));
  for (Chain* each : {&disk.own, &disk.incremental}) {
    if (present(disk, each->bitmap)) continue;
    // A crash came between the bitmap's end and the chain's, or it is gone with its store.
    std::vector<std::string> layers = std::exchange(each->layers, {});
    if (!each->under_way.empty()) layers.push_back(std::exchange(each->under_way, ""));   // stands on them
    co_await drop_files(std::move(layers));
    each->bitmap.clear();
    each->point = nullptr;
  }
  Chain& chain = disk.incremental;
  std::string target = std::exchange(chain.under_way, "");
  if (target.empty()) co_return;
  bool of_use = chain.began && !chain.layers.empty() && world_.disk().exists(target);
  if (of_use) {
    Json node = Json::object({{"driver", "qcow2"}, {"node-name", "under-way"}, {"read-only", true}, {"file", file_at(target)},
                              {"backing", Json()}});
    const Result<Json> opened = co_await execute("blockdev-add", std::move(node));
    of_use = opened.ok();
    Json name = Json::object({{"node-name", "under-way"}});
    if (of_use) co_await must("blockdev-del", std::move(name));
  }
  if (!of_use) co_return co_await drop_file(std::move(target));
  chain.layers.push_back(std::move(target));
  chain.point = nullptr;
}

Task<> Session::compare_chain(std::size_t disk, const Chain& chain) {
  if (chain.layers.empty() || !chain.point) co_return;
  const Backup newest{disk, chain.layers.back(), "qcow2", chain.point};
  co_await compare(newest);
}

Task<> Session::compare(const Backup& backup) {
  Json node = Json::object({{"driver", backup.format}, {"node-name", "reader"}, {"read-only", true}, {"file", file_at(backup.path)}});
  co_await must_in_time("blockdev-add", std::move(node), machine_.targets_fail);
  Result<Stamps> seen = Stamps();
  {
    BlockNode* reader = co_await unwrap(daemon_->graph().lookup("reader"));
    const Permissions reading{Permissions::consistent_read, Permissions::all};
    const auto edge = co_await unwrap(Edge::attach(*reader, Role::root, reading, "a restore"));
    seen = co_await read(*edge).result();
    while (!seen && machine_.targets_fail && alive()) seen = co_await read(*edge).result();
  }
  Json name = Json::object({{"node-name", "reader"}});
  co_await must("blockdev-del", std::move(name));
  Result<> right = seen ? compare(backup, *seen) : Result<>(seen.error());
  if (!right) complain("backup " + backup.path + " of disk " + machine_.disks[backup.disk].plan.node + ": " + right.error().message());
  co_await unwrap(right);
}

Result<> Session::compare(const Backup& backup, const Stamps& seen) const {
  const Stamps& base = machine_.disks[backup.disk].base;
  const Point& point = *backup.point;
  if (seen.size() != point.content.size()) return Error(Errc::corrupt, "it has another size than its point");
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (point.allows(i, seen[i])) continue;
    const bool below = backup.top_only && seen[i] == 0 && i < base.size() && point.allows(i, base[i]);
    if (!below)
      return Error(Errc::corrupt, "sector at " + std::to_string(i * sector) + " holds stamp " + std::to_string(seen[i]) +
                                      ", at its point it held " + std::to_string(point.at(i)));
  }
  return {};
}

// Chains go on from where they are; then all goes.
Task<> Session::finish() {
  for (std::size_t i = 0; i < machine_.disks.size(); ++i) {
    const std::vector<std::size_t> disk{i};
    co_await back_up_own(disk);
    co_await back_up_incremental(disk, false);
    co_await compare_chain(i, machine_.disks[i].own);
    co_await compare_chain(i, machine_.disks[i].incremental);
  }
  for (const Backup& backup : machine_.backups) co_await compare(backup);
  for (MachineDisk& disk : machine_.disks) {
    for (Chain* chain : {&disk.own, &disk.incremental}) co_await drop_chain(disk, *chain);
    std::vector<std::string> names;
    for (const auto& [name, bitmap] : disk.bitmaps) names.push_back(name);
    for (std::string& name : names)
      if (present(disk, name)) co_await remove(disk, std::move(name));
    BlockNode* node = co_await unwrap(daemon_->graph().lookup(disk.plan.node));
    if (!node->bitmaps().all().empty() || !node->bitmaps().retired().empty()) complain("bitmaps are left on " + disk.plan.node);
    if (node->parents().size() != 1) complain("somebody still uses " + disk.plan.node);
  }
  for (const Backup& backup : std::exchange(machine_.backups, {})) co_await drop_file(backup.path);
}

// Of files: the disks and what they stand on.
Task<> Session::check_nothing_left() {
  for (const char* directory : {"/d", "/b", scratch}) {
    const std::vector<std::string> names = co_await fs::list(reactor_, directory);
    for (const std::string& name : names) {
      const std::string path = std::string(directory) + "/" + name;
      const auto is = [&](const MachineDisk& disk) { return disk.plan.path == path || disk.plan.path + ".base" == path; };
      if (std::ranges::none_of(machine_.disks, is)) co_await Error(Errc::corrupt, "'" + path + "' was left behind");
    }
  }
}

}  // namespace tidemark::sim
