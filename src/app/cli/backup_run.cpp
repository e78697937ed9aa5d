#include "app/cli/backup_run.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

#include "app/cli/fields.hpp"
#include "app/images.hpp"
#include "storage/file.hpp"

namespace tidemark::cli {
namespace {

constexpr std::uint32_t granularity = 64 * KiB;          // of bitmaps, checksums and the images' clusters
constexpr Duration poll_interval = std::chrono::milliseconds(100);

std::vector<NodeBitmapState> bitmaps_of(const Json& node) {
  std::vector<NodeBitmapState> states;
  if (const Json* bitmaps = node.find("dirty-bitmaps"))
    for (const Json& bitmap : items(*bitmaps))
      states.push_back({text(bitmap, "name"), flag(bitmap, "recording"), flag(bitmap, "busy"), flag(bitmap, "inconsistent")});
  return states;
}

std::uint64_t size_of(const Json& node) {
  const Json* image = node.find("image");
  return image ? number(*image, "virtual-size") : 0;
}

// Of a checkpoint whose bitmap nobody has seen: where the point's own bitmap is, they were taken in one transaction, and the disk had none
// of that name before.  One that somebody has deleted and taken anew since is later.
bool is_noted(const CheckpointNote& note, const Json& checkpoint, const Json& disk, const Json& nodes, const std::string& point_prefix) {
  if (!note.bitmap.empty()) return text(disk, "bitmap") == note.bitmap;
  constexpr std::uint64_t transaction_max = 10'000'000;  // microseconds
  if (text(checkpoint, "name") != note.name) return false;
  if (number(checkpoint, "taken") > static_cast<std::uint64_t>(note.noted_ns) / 1000 + transaction_max) return false;
  const Json* node = find_by(nodes, "node-name", text(disk, "node"));
  const auto bitmaps = node ? bitmaps_of(*node) : std::vector<NodeBitmapState>();
  return std::any_of(bitmaps.begin(), bitmaps.end(), [&](const auto& bitmap) { return bitmap.name.starts_with(point_prefix); });
}

Json action(std::string_view type, Json data) { return Json::object({{"type", type}, {"data", std::move(data)}}); }

}  // namespace

std::string BackupRun::sums_path(const RunDisk& disk) const {
  return directory_.new_path(id_) + "/" + disk.choice.name + ".sums";
}

std::string BackupRun::image_path(const RunDisk& disk) const {
  return directory_.new_path(id_) + "/" + disk.choice.name + ".qcow2";
}

Task<PointManifest> BackupRun::run() {
  started_ = context_.reactor.now();
  machine_ = co_await read_machine();
  co_await clear_left_behind();
  co_await plan();
  id_ = co_await directory_.begin_point();
  auto taken = co_await take_point().result();
  progress_.finish();
  co_await unwrap(std::move(taken));
  PointManifest published = co_await publish();
  // The point is there, whatever becomes of these; the next run looks for them again.
  (void)co_await directory_.forget_checkpoint().result();
  (void)co_await drop_old_bitmaps().result();
  co_return std::move(published);
}

Task<Json> BackupRun::read_machine() {
  if (options_.machine_file.empty()) co_return Json();
  const FileInfo info = co_await fs::stat(context_.reactor, options_.machine_file);
  if (info.type != FileInfo::Type::regular)
    co_await Error(Errc::invalid_argument, fmt::format("'{}' is not a regular file", options_.machine_file));
  const std::string content = co_await fs::read_all(context_.reactor, options_.machine_file, 16 * MiB);
  auto json = parse_json(content);
  if (!json) co_await json.error().with_context("'" + options_.machine_file + "'");
  if (const auto ok = check_machine(*json); !ok) co_await ok.error().with_context("'" + options_.machine_file + "'");
  co_return *std::move(json);
}

Task<> BackupRun::clear_left_behind() {
  const Json jobs = co_await client_.execute("query-jobs");
  std::vector<std::string> ids;
  for (const Json& job : items(jobs))
    if (const std::string id = text(job, "id"); id.starts_with(own_prefix())) ids.push_back(id);
  co_await end_jobs(std::move(ids));
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  for (const Json& node : items(nodes)) {
    const std::string name = text(node, "node-name");
    if (!name.starts_with(own_prefix())) continue;
    Json arguments = Json::object({{"node-name", name}});
    co_await client_.execute("blockdev-del", std::move(arguments));
  }
  co_await drop_checkpoint();
}

// What was noted, of this run or of one that was killed.
Task<> BackupRun::drop_checkpoint() {
  const std::optional<CheckpointNote> note = co_await directory_.noted_checkpoint();
  if (note) co_await delete_checkpoint(*note);
  co_await directory_.forget_checkpoint();
}

// By its bitmaps' name, which another one of the same name does not have, wherever it is by now.
Task<> BackupRun::delete_checkpoint(CheckpointNote note) {
  auto answer = co_await client_.execute("query-checkpoints").result();
  if (!answer && answer.error().code() == Errc::command_not_found) co_return;  // this daemon has none
  const Json all = co_await unwrap(std::move(answer));
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  const std::string own = bitmap_prefix(directory_.id()) + note.point + ":";
  for (const Json& checkpoint : items(all)) {
    Json taken = Json::array();
    if (const Json* disks = checkpoint.find("disks"))
      for (const Json& disk : items(*disks))
        if (is_noted(note, checkpoint, disk, nodes, own)) taken.push_back(text(disk, "node"));
    if (items(taken).empty()) continue;
    Json arguments = Json::object({{"name", text(checkpoint, "name")}, {"disks", std::move(taken)}});
    co_await client_.execute("checkpoint-delete", std::move(arguments));
  }
}

// Cancels jobs, waits for their end and dismisses them; those that have gone on their own are fine.
Task<> BackupRun::end_jobs(std::vector<std::string> ids) {
  for (const std::string& id : ids) {
    Json arguments = Json::object({{"id", id}});
    (void)co_await client_.execute("job-cancel", std::move(arguments)).result();
  }
  for (const std::string& id : ids)
    for (;;) {
      const Json jobs = co_await client_.execute("query-jobs");
      const Json* job = find_by(jobs, "id", id);
      if (!job) break;
      if (text(*job, "status") == "concluded") {
        Json arguments = Json::object({{"id", id}});
        (void)co_await client_.execute("job-dismiss", std::move(arguments)).result();
      }
      co_await context_.reactor.sleep(poll_interval);
    }
}

Task<> BackupRun::plan() {
  const Disks disks = co_await all_disks(client_);
  const Json commands = co_await client_.execute("query-commands");
  checkpoints_ = find_by(commands, "name", "checkpoint-create") != nullptr;
  if (!checkpoints_ && !(options_.checkpoint.empty() && options_.since.empty()))
    co_await Error(Errc::unsupported, "the daemon has no checkpoints");
  extended_ = find_by(commands, "name", "block-dirty-bitmap-clear-suspected") != nullptr;
  co_await choose_disks(disks);
  if (!options_.checkpoint.empty()) co_await check_checkpoint();
  for (RunDisk& disk : disks_) co_await plan_one(disk, disks.nodes);
}

Task<> BackupRun::check_checkpoint() {
  const Json all = co_await client_.execute("query-checkpoints");
  const Json* there = find_by(all, "name", options_.checkpoint);
  const Json* on = there ? there->find("disks") : nullptr;
  for (const RunDisk& disk : disks_)
    if (on && find_by(*on, "node", disk.choice.node))
      co_await Error(Errc::exists, fmt::format("disk '{0}' has a checkpoint '{1}' already; give another name, or delete that one first: "
                                               "tidemark checkpoint delete {1}", disk.choice.name, options_.checkpoint));
}

Task<> BackupRun::choose_disks(const Disks& disks) {
  for (DiskChoice& choice : options_.disks) {
    if (choice.name.empty()) choice.name = choice.node;
    choice.node = co_await unwrap(written_image_of(disks, choice.node));
  }
  if (options_.disks.empty()) co_await choose_exported(disks);
  for (const DiskChoice& choice : options_.disks) {
    RunDisk disk;
    disk.choice = choice;
    if (!valid_disk_name(disk.choice.name))
      co_await Error(Errc::invalid_argument,
                     fmt::format("'{}' cannot name a disk in a backup; give another with --disk DISK=NAME", disk.choice.name));
    for (const RunDisk& other : disks_) {
      if (other.choice.node == disk.choice.node)
        co_await Error(Errc::invalid_argument, fmt::format("node '{}' is given twice", disk.choice.node));
      if (other.choice.name == disk.choice.name)
        co_await Error(Errc::invalid_argument, fmt::format("two disks are named '{}'", disk.choice.name));
    }
    disks_.push_back(std::move(disk));
  }
}

// What has no size and never had one here has nothing to be kept.
Task<> BackupRun::choose_exported(const Disks& disks) {
  std::vector<std::string> empty;
  for (const ExportedDisk& disk : exported_writable(disks)) {
    const std::string name = name_here(disk.names);
    const auto& points = directory_.points();
    const bool known = std::any_of(points.begin(), points.end(), [&](const PointManifest& point) { return point.find(name) != nullptr; });
    if (known || size_of(*find_by(disks.nodes, "node-name", disk.node)) != 0) options_.disks.push_back({disk.node, name});
    else empty.push_back(name);
  }
  std::string why = "the daemon exports no writable disk";
  if (!empty.empty()) why = fmt::format("disk '{}' has no size, nor has any other", empty.front());
  if (options_.disks.empty()) co_await Error(Errc::not_found, why + "; name the nodes to back up with --disk");
  if (context_.json) co_return;
  for (const std::string& name : empty)
    print_error(Error(Errc::invalid_format, fmt::format("disk '{}' has no size: it is left out", name)), false);
}

// Of a disk's names the one that the newest point has it by, or else the first that can name it.
std::string BackupRun::name_here(const std::vector<std::string>& names) const {
  const auto& points = directory_.points();
  for (auto point = points.rbegin(); point != points.rend(); ++point)
    for (const std::string& name : names)
      if (point->find(name)) return name;
  const auto valid = std::find_if(names.begin(), names.end(), valid_disk_name);
  return valid == names.end() ? names.front() : *valid;
}

Task<> BackupRun::plan_one(RunDisk& disk, const Json& nodes) {
  const Json* node = find_by(nodes, "node-name", disk.choice.node);
  if (!node) co_await Error(Errc::not_found, fmt::format("the daemon has no node '{}'", disk.choice.node));
  disk.size = size_of(*node);
  if (disk.size == 0)
    co_await Error(Errc::invalid_format, fmt::format("disk '{}' (node '{}') has no size; name those to back up with --disk",
                                                     disk.choice.name, disk.choice.node));
  const auto bitmaps = bitmaps_of(*node);
  if (options_.since.empty())
    disk.plan = co_await unwrap(plan_disk(directory_, disk.choice.name, disk.size, bitmaps, options_.level));
  else
    disk.plan = co_await unwrap(plan_since(directory_, disk.choice.name, disk.size, bitmaps, options_.since));
  if (disk.plan.base) co_await check_base(disk);
}

// A manifest promises its files: on one that is not there, or not whole, nothing is built.
Task<> BackupRun::check_base(RunDisk& disk) {
  const PointManifest* base = co_await unwrap(directory_.find(*disk.plan.base));
  const auto chain = co_await unwrap(directory_.chain(*base, disk.choice.name));
  disk.base_images = image_paths(directory_, chain, disk.choice.name);
  const auto readable = co_await check_chain(context_.reactor, directory_, chain, disk.choice.name).result();
  if (readable) co_return;
  const std::string why = fmt::format("point {} cannot be built on: {}", base->id, readable.error().message());
  if (options_.level == BackupLevel::incremental || !options_.since.empty())
    co_await Error(Errc::not_found, fmt::format("disk '{}' cannot be backed up incrementally: {}", disk.choice.name, why));
  disk.plan.base.reset();
  disk.plan.full_reason = why;
  disk.base_images.clear();
}

Task<> BackupRun::take_point() {
  for (RunDisk& disk : disks_) co_await prepare(disk);
  if (!options_.checkpoint.empty()) co_await announce_checkpoint();
  co_await start_at_rest();
  if (!options_.checkpoint.empty()) co_await note_checkpoint();
  if (!options_.since.empty()) co_await check_since();
  co_await wait();
  co_await remove_targets();
  progress_.finish();
  for (RunDisk& disk : disks_) co_await seal(disk);
  co_await unwrap(context_.check_interrupted());
}

Task<> BackupRun::prepare(RunDisk& disk) {
  const std::string path = image_path(disk);
  std::string backing;
  if (disk.plan.base) backing = fmt::format("../{}/{}.qcow2", *disk.plan.base, disk.choice.name);
  co_await create_point_image(context_.reactor, path, disk.size, backing);
  // Both are ours, whoever the daemon is.
  if (extended_) co_await create_file(context_.reactor, sums_path(disk), 0, FilePreallocation::off);
  const auto index = static_cast<std::size_t>(&disk - disks_.data());
  disk.target_node = disk.job_id = own_prefix() + std::to_string(index);
  disk.new_bitmap = bitmap_name(directory_.id(), id_, disk.choice.name);
  // What the image does not hold is read from its base by others, never by the job: no backing node.
  Json file = Json::object({{"driver", "file"}, {"filename", path}});
  Json node = Json::object(
      {{"driver", "qcow2"}, {"node-name", disk.target_node}, {"file", std::move(file)}, {"backing", Json()}});
  co_await client_.execute("blockdev-add", std::move(node));
  disk.target_added = true;
}

// That guests may be frozen is told now, and not when the backup has ended.
Task<> BackupRun::start_at_rest() {
  std::string disks;
  for (const RunDisk& disk : disks_) disks += (disks.empty() ? "" : " ") + disk.choice.name;
  bool started = false;
  const std::function<Task<>()> begin = [&]() -> Task<> {
    co_await unwrap(context_.check_interrupted());
    co_await start();
    started = true;
  };
  quiesced_ = co_await while_quiesced(context_, options_.quiesce, std::move(disks), begin).result();
  if (!started) co_await unwrap(quiesced_);
  if (!quiesced_ && !context_.json) print_error(quiesced_.error().with_context(fmt::format("the moment of point '{}'", id_)), false);
}

// With checksums by the daemon, and with bitmaps that outlive it where it keeps them through crashes (QEMU's are of no
// use after one) and if it can: a transaction that was refused changed nothing, so it is tried again with others.
Task<> BackupRun::start() {
  if (!extended_) bitmaps_reason_ = "the daemon keeps no bitmaps through a crash";
  auto started = co_await start_jobs(extended_).result();
  if (!started && extended_ && started.error().code() != Errc::disconnected) {
    bitmaps_reason_ = started.error().message();
    const auto again = co_await start_jobs(false).result();
    if (!again) co_await again.error();
    if (!context_.json) print_error(Error(Errc::unsupported, bitmaps_reason_ + "; the bitmaps of this backup end with the daemon"), false);
    started = again;
  }
  co_await unwrap(started);
  for (RunDisk& disk : disks_) disk.bitmap_added = disk.job_started = true;
}

Task<> BackupRun::start_jobs(bool persistent) {
  Json actions = Json::array();
  for (const RunDisk& disk : disks_) {
    Json bitmap = Json::object({{"node", disk.choice.node}, {"name", disk.new_bitmap}, {"granularity", granularity}});
    if (persistent) bitmap.set("persistent", true);
    if (checkpoints_) bitmap.set("follows-disk", true);
    actions.push_back(action("block-dirty-bitmap-add", std::move(bitmap)));
    Json backup = Json::object({{"job-id", disk.job_id},
                                {"device", disk.choice.node},
                                {"target", disk.target_node},
                                {"sync", disk.plan.base ? "bitmap" : "full"},
                                {"auto-dismiss", false}});
    if (disk.plan.base && !options_.since.empty()) {
      backup.set("since", options_.since);
    } else if (disk.plan.base) {
      backup.set("bitmap", disk.plan.base_bitmap);
      backup.set("bitmap-mode", "never");
    }
    if (extended_) backup.set("checksums", sums_path(disk));
    if (options_.compress) backup.set("compress", true);
    if (options_.speed) backup.set("speed", options_.speed);
    if (options_.staging_budget) backup.set("staging-budget", options_.staging_budget);
    if (!options_.spill_directory.empty()) backup.set("spill-directory", options_.spill_directory);
    if (!options_.on_staging_full.empty()) backup.set("on-staging-full", options_.on_staging_full);
    actions.push_back(action("blockdev-backup", std::move(backup)));
  }
  if (!options_.checkpoint.empty()) {
    Json nodes = Json::array();
    for (const RunDisk& disk : disks_) nodes.push_back(disk.choice.node);
    Json checkpoint = Json::object({{"name", options_.checkpoint}, {"disks", std::move(nodes)}});
    if (!persistent) checkpoint.set("persistent", false);
    actions.push_back(action("checkpoint-create", std::move(checkpoint)));
  }
  time_ns_ = directory_.point_time();
  Json arguments = Json::object({{"actions", std::move(actions)}});
  co_await client_.execute("transaction", std::move(arguments));
}

// Who is killed before the daemon's answer leaves a checkpoint, or none.
Task<> BackupRun::announce_checkpoint() {
  CheckpointNote note{options_.checkpoint, id_, context_.reactor.backend().wall_clock_ns(), {}};
  co_await directory_.note_checkpoint(std::move(note));
}

// Which bitmaps hold it: another checkpoint of that name would be another one.
Task<> BackupRun::note_checkpoint() {
  const Json all = co_await client_.execute("query-checkpoints");
  for (const Json& checkpoint : items(all)) {
    const Json* there = checkpoint.find("disks");
    if (text(checkpoint, "name") != options_.checkpoint || !there) continue;
    for (RunDisk& disk : disks_)
      if (const Json* entry = find_by(*there, "node", disk.choice.node)) disk.checkpoint = text(*entry, "bitmap");
  }
  CheckpointNote note{options_.checkpoint, id_, 0, disks_.front().checkpoint};         // all of one moment have one name
  if (!note.bitmap.empty()) co_await directory_.note_checkpoint(std::move(note));
}

// The daemon was told a name: when the checkpoint of the base is there still, that was it.
Task<> BackupRun::check_since() {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  for (const RunDisk& disk : disks_) {
    const Json* node = find_by(nodes, "node-name", disk.choice.node);
    const auto bitmaps = node ? bitmaps_of(*node) : std::vector<NodeBitmapState>();
    const auto is_it = [&](const NodeBitmapState& bitmap) { return bitmap.name == disk.plan.base_bitmap; };
    if (std::none_of(bitmaps.begin(), bitmaps.end(), is_it))
      co_await Error(Errc::not_found, fmt::format("disk '{}' cannot be backed up since '{}': it was deleted meanwhile, or taken anew",
                                                  disk.choice.name, options_.since));
  }
}

// An error when one has gone: whether it went well can no longer be known.
Result<bool> BackupRun::all_concluded(const Json& jobs) {
  std::uint64_t done = 0, total = 0;
  bool all = true;
  for (RunDisk& disk : disks_) {
    const Json* job = find_by(jobs, "id", disk.job_id);
    if (!job)
      return Error(Errc::io, fmt::format("backup of disk '{}' failed: somebody else dismissed its job '{}'",
                                         disk.choice.name, disk.job_id));
    done += number(*job, "current-progress");
    total += number(*job, "total-progress");
    disk.job_concluded = text(*job, "status") == "concluded";
    if (disk.job_concluded) disk.job_error = text(*job, "error");
    all = all && disk.job_concluded;
  }
  progress_.update(done, total);
  return all;
}

// The daemon has only the reason; that there is no space is said of the backup directory.
Error BackupRun::job_failed(const RunDisk& disk) const {
  const bool full = disk.job_error == std::strerror(ENOSPC) || disk.job_error == std::strerror(EDQUOT);
  const std::string where = full ? fmt::format(" in '{}'", directory_.path()) : std::string();
  return Error(full ? Errc::no_space : Errc::io,
               fmt::format("backup of disk '{}' failed: {}{}", disk.choice.name, disk.job_error, where));
}

Task<> BackupRun::wait() {
  bool cancelled = false;
  for (;;) {
    const Json jobs = co_await client_.execute("query-jobs");
    const bool concluded = co_await unwrap(all_concluded(jobs));
    if (concluded) break;
    const bool failed = std::any_of(disks_.begin(), disks_.end(), [](const auto& d) { return !d.job_error.empty(); });
    if (!cancelled && (failed || context_.interrupted.requested())) {
      cancelled = true;
      co_await cancel_jobs();
    }
    co_await context_.reactor.sleep(poll_interval);
  }
  co_await dismiss_jobs();
  co_await unwrap(context_.check_interrupted());
  for (const RunDisk& disk : disks_)
    if (!disk.job_error.empty())
      co_await job_failed(disk);
}

Task<> BackupRun::cancel_jobs() {
  for (const RunDisk& disk : disks_) {
    if (!disk.job_started || disk.job_concluded) continue;
    Json arguments = Json::object({{"id", disk.job_id}});
    (void)co_await client_.execute("job-cancel", std::move(arguments)).result();
  }
}

Task<> BackupRun::dismiss_jobs() {
  for (RunDisk& disk : disks_) {
    if (!std::exchange(disk.job_started, false)) continue;
    Json arguments = Json::object({{"id", disk.job_id}});
    co_await client_.execute("job-dismiss", std::move(arguments));
  }
}

Task<> BackupRun::remove_targets() {
  for (RunDisk& disk : disks_) {
    if (!disk.target_added) continue;
    Json arguments = Json::object({{"node-name", disk.target_node}});
    co_await client_.execute("blockdev-del", std::move(arguments));
    disk.target_added = false;
  }
}

// Of images that are thrown away: that one could not be flushed is of no interest, only whether its node is gone.
Task<> BackupRun::drop_targets() {
  for (const RunDisk& disk : disks_) {
    if (!disk.target_added) continue;
    Json arguments = Json::object({{"node-name", disk.target_node}});
    (void)co_await client_.execute("blockdev-del", std::move(arguments)).result();
  }
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  for (const RunDisk& disk : disks_)
    if (disk.target_added && find_by(nodes, "node-name", disk.target_node))
      co_await Error(Errc::busy, fmt::format("the daemon still has node '{}'", disk.target_node));
}

Task<Seal> BackupRun::seal_by_reading(RunDisk& disk) {
  std::vector<std::string> layers{image_path(disk)};
  layers.insert(layers.end(), disk.base_images.begin(), disk.base_images.end());
  auto image = co_await PointImage::open(context_.reactor, std::move(layers));
  Progress progress(context_, "checksums " + disk.choice.name);
  SealStep step = [&](std::uint64_t done) {
    progress.update(done, disk.size);
    return context_.check_interrupted();
  };
  auto sealed = co_await seal_image(image->disk(), sums_path(disk), disk.size, granularity, std::move(step)).result();
  (void)co_await image->close().result();
  co_return co_await unwrap(std::move(sealed));
}

Task<> BackupRun::seal(RunDisk& disk) {
  Task<Seal> sealing = extended_ ? read_seal(context_.reactor, sums_path(disk), disk.size, granularity, !disk.plan.base)
                                 : seal_by_reading(disk);
  const Seal seal = co_await std::move(sealing);
  // The daemon has flushed the image; it is made sure of here, by who publishes the point.
  OpenFlags flags;
  flags.write = true;
  File file = co_await File::open(context_.reactor, image_path(disk), flags);
  auto synced = co_await file.sync().result();
  (void)co_await file.close().result();
  co_await unwrap(std::move(synced));
  disk.manifest = {disk.choice.name, disk.choice.node, disk.size, disk.plan.base, granularity,
                   seal.stored_bytes, seal.sums_digest, disk.new_bitmap, disk.plan.identity, disk.checkpoint};
}

Task<PointManifest> BackupRun::publish() {
  PointManifest manifest;
  manifest.id = id_;
  manifest.time_ns = time_ns_;
  manifest.seconds = std::chrono::duration<double>(context_.reactor.now() - started_).count();
  for (const RunDisk& disk : disks_) manifest.disks.push_back(disk.manifest);
  manifest.machine = machine_;
  co_await directory_.publish(manifest);
  co_return std::move(manifest);
}

Task<> BackupRun::undo() {
  if (id_.empty()) co_return;
  std::vector<std::string> ids;
  for (const RunDisk& disk : disks_)
    if (disk.job_started) ids.push_back(disk.job_id);
  Result<> first = co_await end_jobs(std::move(ids)).result();
  auto removed = co_await drop_targets().result();
  if (first) first = removed;
  auto forgotten = co_await drop_checkpoint().result();
  if (first) first = forgotten;
  for (const RunDisk& disk : disks_) {
    if (!disk.bitmap_added) continue;
    Json arguments = Json::object({{"node", disk.choice.node}, {"name", disk.new_bitmap}});
    auto dropped = co_await client_.execute("block-dirty-bitmap-remove", std::move(arguments)).result();
    if (first && !dropped) first = dropped.error();
  }
  co_await directory_.discard(id_);
  co_await unwrap(std::move(first));
}

Task<> BackupRun::drop_old_bitmaps() {
  for (const RunDisk& disk : disks_) {
    const std::string ours = bitmap_prefix(directory_.id());
    const Json nodes = co_await client_.execute("query-named-block-nodes");
    const Json* node = find_by(nodes, "node-name", disk.choice.node);
    if (!node) continue;
    for (const NodeBitmapState& bitmap : bitmaps_of(*node)) {
      if (!bitmap.name.starts_with(ours) || bitmap.name == disk.new_bitmap || bitmap.busy) continue;
      Json arguments = Json::object({{"node", disk.choice.node}, {"name", bitmap.name}});
      co_await client_.execute("block-dirty-bitmap-remove", std::move(arguments));
    }
  }
}

}  // namespace tidemark::cli
