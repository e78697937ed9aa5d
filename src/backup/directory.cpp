#include "backup/directory.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include <fmt/format.h>

#include "backup/expectation.hpp"

namespace tidemark {
namespace {

constexpr std::string_view directory_format = "tidemark-backup-directory";
constexpr int directory_version = 1;
constexpr std::string_view marker_file = "/tidemark-backup.json";
constexpr std::string_view lock_file = "/lock";
constexpr std::string_view checkpoint_file = "/checkpoint.json";
constexpr std::string_view new_prefix = ".new-";

Result<std::string> parse_marker(std::string_view text) {
  auto json = parse_json(text);
  if (!json) return Error(Errc::corrupt, json.error().message());
  const Json* format = json->find("format");
  const Json* version = json->find("version");
  const Json* id = json->find("id");
  std::uint64_t number = 0;
  if (!format || !(*format == Json(directory_format)) || !version || !version->to_uint64(number) || !id ||
      !id->is_string() || !valid_point_id(id->as_string()))
    return Error(Errc::corrupt, "is not a backup directory's marker");
  if (number != directory_version)
    return Error(Errc::unsupported, "is of a newer version; use a newer program");
  return id->as_string();
}

Error refused(const DamagedPoint& point, std::string message) {
  return Error(is_damage(point.why) ? Errc::corrupt : point.why.code(), std::move(message));
}

// Others than files would keep the reader waiting, a pipe for ever.
Task<std::string> read_file(Reactor& reactor, std::string path) {
  const FileInfo info = co_await fs::stat(reactor, path);
  if (info.type != FileInfo::Type::regular) co_await Error(Errc::corrupt, fmt::format("'{}' is not a regular file", path));
  co_return co_await fs::read_all(reactor, std::move(path), manifest_size_max);
}

}  // namespace

Task<BackupDirectory> BackupDirectory::open(Reactor& reactor, std::string path, Open how) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  BackupDirectory directory(reactor, std::move(path));
  auto opened = co_await directory.open_now(how).result();
  if (!opened) {
    (void)co_await directory.retract().result();
    (void)co_await directory.close().result();
    co_await opened.error();
  }
  co_return std::move(directory);
}

Task<> BackupDirectory::close() {
  if (lock_.is_open()) co_await lock_.close();
}

Task<> BackupDirectory::open_now(Open how) {
  if (how == Open::create) co_await make_directory();
  const bool marked = co_await fs::exists(*reactor_, path_ + std::string(marker_file));
  if (!marked && how == Open::create) co_await check_usable();
  if (!marked && how != Open::create)
    co_await Error(Errc::not_found, fmt::format("'{}' is not a backup directory (it has no tidemark-backup.json)", path_));
  if (how != Open::read) co_await open_locked(how);
  else id_ = co_await read_marker();
  co_await load();
}

// What decides is what is there once the lock is held: two first backups may begin at once.
Task<> BackupDirectory::open_locked(Open how) {
  co_await take_lock();
  const bool marked = co_await fs::exists(*reactor_, path_ + std::string(marker_file));
  if (!marked && how == Open::create) co_await make_content();
  id_ = co_await read_marker();
  co_await sweep();
}

Task<> BackupDirectory::make_directory() {
  const auto there = co_await fs::stat(*reactor_, path_).result();
  if (there && there->type != FileInfo::Type::directory)
    co_await Error(Errc::exists, fmt::format("'{}' is not a directory", path_));
  if (there) co_return;
  if (there.error().code() != Errc::not_found) co_await there.error();
  auto made = co_await fs::mkdir(*reactor_, path_).result();
  if (!made && made.error().code() != Errc::exists) co_await made.error();
  made_directory_ = true;
  std::string parent = std::filesystem::path(path_).parent_path().string();
  if (parent.empty()) parent = ".";
  co_await fs::sync_dir(*reactor_, std::move(parent));
}

// What is in it may be of another first backup, which has marked it by now.
Task<> BackupDirectory::check_usable() const {
  const Result<> empty = co_await check_empty().result();
  if (!empty && empty.error().code() == Errc::not_found) co_return;     // gone with one that was undone, as its lock tells
  const bool marked = co_await fs::exists(*reactor_, path_ + std::string(marker_file));
  if (!marked) co_await unwrap(empty);
}

// But for what an interrupted creation left behind.
Task<> BackupDirectory::check_empty() const {
  const Error refused(Errc::exists, fmt::format("'{}' is not empty and not a backup directory", path_));
  const auto present = co_await fs::list(*reactor_, path_);
  for (const std::string& name : present) {
    if (name == lock_file.substr(1) || name.starts_with(marker_file.substr(1))) continue;
    if (name != "points") co_await refused;
    const auto points = co_await fs::list(*reactor_, path_ + "/points");
    if (!points.empty()) co_await refused;
  }
}

// The marker comes last: what has one is a backup directory.
Task<> BackupDirectory::make_content() {
  co_await check_empty();
  made_content_ = true;
  const auto left_behind = co_await fs::list(*reactor_, path_);
  for (const std::string& name : left_behind)
    if (name.starts_with(marker_file.substr(1))) co_await fs::unlink(*reactor_, path_ + "/" + name);
  const std::string points = path_ + "/points";
  const bool has_points = co_await fs::exists(*reactor_, points);
  if (!has_points) co_await fs::mkdir(*reactor_, points);
  const Json marker = Json::object({{"format", directory_format},
                                    {"version", directory_version},
                                    {"id", fmt::format("{:016x}", reactor_->backend().random())}});
  co_await fs::replace(*reactor_, path_ + std::string(marker_file), to_text(marker, 2) + "\n");
}

Task<std::string> BackupDirectory::read_marker() {
  const std::string marker = path_ + std::string(marker_file);
  const std::string text = co_await read_file(*reactor_, marker);
  auto id = parse_marker(text);
  if (!id) co_await id.error().with_context("'" + marker + "'");
  co_return *std::move(id);
}

Error BackupDirectory::in_use() const {
  return Error(Errc::busy, fmt::format("backup directory '{}' is in use by another backup; wait for it to end", path_));
}

// Made, or the one that is there: what a link of that name points at is not made.  It, and the directory, may go at this moment with a
// first backup that is undone.
Task<File> BackupDirectory::open_lock_file() {
  const std::string path = path_ + std::string(lock_file);
  OpenFlags making, using_it;
  making.write = making.create = making.exclusive = using_it.write = true;
  for (bool again = false;; again = true) {
    auto made = co_await File::open(*reactor_, path, making).result();
    if (!made && made.error().code() == Errc::not_found) co_await in_use();
    if (made || made.error().code() != Errc::exists) co_return co_await unwrap(std::move(made));
    auto opened = co_await File::open(*reactor_, path, using_it).result();
    if (opened || again || opened.error().code() != Errc::not_found) co_return co_await unwrap(std::move(opened));
  }
}

// The lock's file may go with its directory while we wait for it: then it locks nothing.
Task<> BackupDirectory::take_lock() {
  const std::string path = path_ + std::string(lock_file);
  lock_ = co_await open_lock_file();
  LockRequest request;
  request.mode = LockRequest::Mode::exclusive;
  request.length = 1;
  auto locked = co_await lock_.lock(request).result();
  if (!locked && locked.error().code() == Errc::busy) co_await in_use();
  if (!locked) co_await locked.error();
  const FileInfo ours = co_await lock_.stat();
  const auto named = co_await fs::stat(*reactor_, path).result();
  if (!named || named->inode != ours.inode || named->device != ours.device) co_await in_use();
  locked_ = true;
}

Task<> BackupDirectory::retract() {
  if (!points_.empty()) co_return;
  if (locked_) co_await retract_content();
  if (made_directory_) co_await fs::rmdir(*reactor_, path_);       // fails when another uses it by now
}

Task<> BackupDirectory::retract_content() {
  const std::string marker = path_ + std::string(marker_file), points = path_ + "/points";
  if (made_content_) {
    const auto present = co_await fs::list(*reactor_, points);
    if (!present.empty()) co_return;
    (void)co_await fs::unlink(*reactor_, marker).result();
    co_await fs::rmdir(*reactor_, points);
  }
  const bool marked = co_await fs::exists(*reactor_, marker);
  if (!marked) co_await fs::unlink(*reactor_, path_ + std::string(lock_file));
}

// Of a backup directory that has no place for them they are lost: who made one would hide it.
Task<std::vector<std::string>> BackupDirectory::names_of_points() const {
  const auto listed = co_await fs::list(*reactor_, path_ + "/points").result();
  if (!listed) co_await as_damage(listed.error());
  co_return *listed;
}

Task<> BackupDirectory::load() {
  const auto listed = co_await names_of_points();
  for (const std::string& name : listed) {
    if (!valid_point_id(name)) continue;
    auto text = co_await read_file(*reactor_, point_path(name) + "/manifest.json").result();
    if (!text && text.error().os_errno() == ENOTDIR) continue;           // a file is no point
    Result<PointManifest> manifest = text ? parse_manifest(*text) : Result<PointManifest>(text.error());
    if (manifest && manifest->id != name) manifest = Error(Errc::corrupt, "manifest: is of point '" + manifest->id + "'");
    if (manifest) points_.push_back(*std::move(manifest));
    else damaged_.push_back({name, manifest.error()});
  }
  std::sort(points_.begin(), points_.end(), [](const auto& a, const auto& b) {
    return std::tie(a.time_ns, a.id) < std::tie(b.time_ns, b.id);
  });
}

Result<const PointManifest*> BackupDirectory::find(std::string_view name) const {
  if (name == "latest") {
    for (const DamagedPoint& point : damaged_)
      if (points_.empty() || point.id > points_.back().id)
        return refused(point, fmt::format("the latest point in '{}' may be {}; name another, see 'tidemark list'", path_, point.line()));
    if (points_.empty()) return Error(Errc::not_found, fmt::format("'{}' holds no points", path_));
    return &points_.back();
  }
  std::vector<Result<const PointManifest*>> beginning;
  for (const PointManifest& point : points_) {
    if (point.id == name) return &point;
    if (point.id.starts_with(name)) beginning.push_back(&point);
  }
  for (const DamagedPoint& point : damaged_) {
    const Error why = refused(point, fmt::format("point {} in '{}'", point.line(), path_));
    if (point.id == name) return why;
    if (point.id.starts_with(name)) beginning.push_back(why);
  }
  if (name.empty() || beginning.empty())
    return Error(Errc::not_found, fmt::format("'{}' holds no point '{}'; see 'tidemark list'", path_, name));
  if (beginning.size() == 1) return beginning.front();
  return Error(Errc::invalid_argument, fmt::format("'{}' is the beginning of several points' ids; give more of it", name));
}

Result<std::vector<const PointManifest*>> BackupDirectory::chain(const PointManifest& point, std::string_view disk) const {
  std::vector<const PointManifest*> layers;
  const PointManifest* at = &point;
  for (;;) {
    const DiskManifest* entry = at->find(disk);
    if (!entry) return Error(Errc::corrupt, fmt::format("point {} holds no disk '{}'", at->id, disk));
    layers.push_back(at);
    if (!entry->base) return layers;
    const auto base = std::find_if(points_.begin(), points_.end(), [&](const auto& p) { return p.id == *entry->base; });
    if (base == points_.end())
      return Error(Errc::corrupt, fmt::format("point {} builds on point {}, which is missing or damaged", at->id, *entry->base));
    if (layers.size() > points_.size())
      return Error(Errc::corrupt, fmt::format("point {} builds on itself", point.id));
    at = &*base;
  }
}

std::int64_t BackupDirectory::point_time() const {
  constexpr std::int64_t step = 1'000'000;               // as fine as ids are
  const std::int64_t last = points_.empty() ? 0 : points_.back().time_ns;
  return std::max({reactor_->backend().wall_clock_ns(), begun_ns_, last > INT64_MAX - step ? last : last + step});
}

Task<std::string> BackupDirectory::begin_point() {
  TM_ASSERT(lock_.is_open());
  begun_ns_ = point_time();
  const std::string id =
      fmt::format("{}-{:08x}", utc_time_compact(begun_ns_), static_cast<std::uint32_t>(reactor_->backend().random()));
  co_await fs::mkdir(*reactor_, new_path(id));
  co_return id;
}

Task<> BackupDirectory::publish(PointManifest manifest) {
  const std::string id = manifest.id, text = to_text(manifest);
  if (const auto read = parse_manifest(text); !read)
    co_await Error(Errc::invalid_argument, fmt::format("point {} could not be read again: {}", id, read.error().message()));
  co_await fs::replace(*reactor_, new_path(id) + "/manifest.json", text);                // syncs the names, too
  co_await fs::rename(*reactor_, new_path(id), point_path(id), true);
  const auto durable = co_await fs::sync_dir(*reactor_, path_ + "/points").result();
  if (!durable) {
    // Who is told that it failed does not look for it.
    (void)co_await fs::rename(*reactor_, point_path(id), new_path(id), true).result();
    co_await durable.error();
  }
  points_.push_back(std::move(manifest));
}

Task<> BackupDirectory::discard(std::string id) { return remove_tree(new_path(id)); }

Task<> BackupDirectory::note_checkpoint(CheckpointNote note) {
  Json json = Json::object({{"name", std::move(note.name)}, {"point", std::move(note.point)}, {"noted-ns", note.noted_ns}});
  if (!note.bitmap.empty()) json.set("bitmap", std::move(note.bitmap));
  co_await fs::replace(*reactor_, path_ + std::string(checkpoint_file), to_text(json) + "\n");
}

// What cannot be read as one says nothing.
Task<std::optional<CheckpointNote>> BackupDirectory::noted_checkpoint() {
  std::optional<CheckpointNote> note;
  const auto content = co_await read_file(*reactor_, path_ + std::string(checkpoint_file)).result();
  const Result<Json> json = content ? parse_json(*content) : Result<Json>(content.error());
  if (!json) co_return note;
  const auto text = [&](std::string_view key) {
    const Json* value = json->find(key);
    return value && value->is_string() ? value->as_string() : std::string();
  };
  note = CheckpointNote{text("name"), text("point"), 0, text("bitmap")};
  if (const Json* noted = json->find("noted-ns")) (void)noted->to_int64(note->noted_ns);
  for (const PointManifest& point : points_)
    for (const DiskManifest& disk : point.disks)
      if (!note->bitmap.empty() && disk.checkpoint == note->bitmap) co_return std::nullopt;
  co_return note;
}

Task<> BackupDirectory::forget_checkpoint() {
  const auto gone = co_await fs::unlink(*reactor_, path_ + std::string(checkpoint_file)).result();
  if (!gone && gone.error().code() != Errc::not_found) co_await gone.error();
}

Task<> BackupDirectory::sweep() {
  const auto names = co_await names_of_points();
  for (const std::string& name : names)
    if (name.starts_with(new_prefix)) co_await remove_tree(path_ + "/points/" + name);
}

// Whatever is there: of a link only the link goes.
Task<> BackupDirectory::remove_tree(std::string path) {
  const auto gone = co_await fs::unlink(*reactor_, path).result();
  if (gone) co_return;
  if (gone.error().os_errno() != EISDIR) co_await gone.error();
  const auto names = co_await fs::list(*reactor_, path);
  for (const std::string& name : names) co_await remove_tree(path + "/" + name);
  co_await fs::rmdir(*reactor_, path);
}

}  // namespace tidemark
