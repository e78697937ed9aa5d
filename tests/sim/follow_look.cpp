// What is to be true of the disk after a crash, after the step that was interrupted was done again, and when all was closed.
#include <algorithm>

#include "block/checkpoints.hpp"
#include "io/file.hpp"
#include "tests/sim/follow_session.hpp"
#include "tests/sim/qcow2_check.hpp"

namespace tidemark::sim {
namespace {

constexpr const char* target = "/t/target";

Error wrong(const std::string& what) { return Error(Errc::corrupt, what); }

// The first byte that is not as at the point and counts as unwritten.
template <class IsDirty>
std::optional<std::uint64_t> lost(const FollowKnown::Stamps& now, const FollowKnown::Stamps& point, const IsDirty& is_dirty) {
  for (std::size_t i = 0; i < now.size(); ++i) {
    const std::uint64_t at = i * SectorModel::sector;
    if (now[i] != (i < point.size() ? point[i] : 0) && !is_dirty(at)) return at;
  }
  return std::nullopt;
}

// Of any of the points.
template <class IsDirty>
Result<> covers(const std::string& name, const FollowKnown::Stamps& now, const FollowKnown::Bitmap& bitmap, const IsDirty& is_dirty) {
  std::optional<std::uint64_t> at;
  for (const auto& point : bitmap.points) {
    at = lost(now, point, is_dirty);
    if (!at) return {};
  }
  return wrong("bitmap " + name + " has lost the change at " + std::to_string(at.value_or(0)));
}

}  // namespace

NodeBitmap* FollowSession::find_bitmap(BlockNode& node, const std::string& name, const Bitmap& bitmap) {
  if (!bitmap.checkpoint) return node.bitmaps().find(name);
  const auto all = checkpoints_in(node.bitmaps());
  const auto found = find_checkpoint(all, name);
  return found == all.end() ? nullptr : found->bitmap;
}

Task<> FollowSession::look(FollowScript script, bool again) {
  const auto body = [&]() -> Task<> {
    co_await check("after the crash");
    if (!again) co_return;
    known_.gone_astray = false;
    FollowScript rest;
    if (known_.step < script.size() && script[known_.step].what != What::restart) rest.push_back(script[known_.step]);
    co_await carry_out(rest);
    co_await check("when it was done again");
  };
  co_await with_daemon(body);
  if (!again) co_return;
  known_.content.all_durable();
  co_await check_files();
  const auto reopened = [&]() -> Task<> { co_await check("when it was closed"); };
  co_await with_daemon(reopened);
}

Task<> FollowSession::check(std::string when) {
  const auto all = [&]() -> Task<> {
    const Stamps now = co_await check_content();
    co_await check_bitmaps(now);
    co_await check_backup(now);
  };
  const Result<> right = co_await all().result();
  if (!right) co_await right.error().with_context(when);
}

Task<FollowKnown::Stamps> FollowSession::check_content() {
  std::vector<std::byte> content(FollowKnown::disk_size);
  const Buffers into{MutableBytes(content)};
  co_await guests_.front()->read(0, into);
  co_await unwrap(known_.content.check(content));
  Stamps now;
  for (std::uint64_t at = 0; at < content.size(); at += SectorModel::sector) {
    const Range range{at, SectorModel::sector};
    now.push_back(load_be<std::uint64_t>(content.data() + at));
    known_.content.begin(range, now.back());
    known_.content.end(range);
  }
  known_.content.all_durable();
  for (const BlockNode* at = &disk(); at; at = at->backing()) {
    const std::string& path = files_.at(at->name());
    if (known_.formats.at(path) != "qcow2") continue;
    const Result<> right = check_qcow2(world_.disk().file(path)->visible());
    if (!right) co_await right.error().with_context(path);
  }
  co_return std::move(now);
}

Task<> FollowSession::check_bitmaps(const Stamps& now) {
  std::size_t found = 0;
  for (const auto& [name, bitmap] : known_.bitmaps) {
    if (!bitmap.home.empty()) {
      const bool is_disk = bitmap.home == known_.disk;
      found += is_disk ? 1 : 0;
      co_await check_layer(name, bitmap);
      continue;
    }
    const NodeBitmap* there = find_bitmap(disk(), name, bitmap);
    found += there ? 1 : 0;
    if (!there && bitmap.there && !bitmap.gone && !known_.gone_astray) co_await wrong("bitmap " + name + " is gone");
    if (!there) continue;
    if (!there->follows()) co_await wrong("bitmap " + name + " does not follow the disk any more");
    co_await check_bitmap(*there, name, bitmap, now);
  }
  if (disk().bitmaps().all().size() == found) co_return;
  for (const auto& bitmap : disk().bitmaps().all()) {
    const auto checkpoint = checkpoint_of(bitmap->name());
    if (!known_.bitmaps.contains(checkpoint ? checkpoint->name : bitmap->name()))
      co_await wrong("bitmap " + bitmap->name() + " was left behind");
  }
}

// A checkpoint's is all that was written since.
Task<> FollowSession::check_bitmap(const NodeBitmap& there, const std::string& name, const Bitmap& bitmap, const Stamps& now) {
  if (there.inconsistent()) co_await wrong("bitmap " + name + " is inconsistent: " + there.inconsistent_reason());
  const DirtyBitmap* bits = &there.bits();
  std::optional<DirtyBitmap> since;
  if (bitmap.checkpoint) {
    const auto all = checkpoints_in(disk().bitmaps());
    since = co_await unwrap(written_since(all, find_checkpoint(all, name)));
    bits = &*since;
  }
  const auto is_dirty = [bits](std::uint64_t at) { return bits->test(at); };
  co_await unwrap(covers(name, now, bitmap, is_dirty));
}

// One that stays with its image says what was written to that.
Task<> FollowSession::check_layer(const std::string& name, const Bitmap& bitmap) {
  const std::string node = find_layer(bitmap.home);
  if (node.empty()) co_return;
  BlockNode& layer = *daemon_->graph().find(node);
  const NodeBitmap* there = layer.bitmaps().find(name);
  if (!there && bitmap.there && !bitmap.gone) co_await wrong("bitmap " + name + " of a layer is gone");
  if (!there) co_return;
  const Stamps now = co_await read(layer);
  co_await check_bitmap(*there, name, bitmap, now);
}

// What one of them says, copied on top of its point, is the disk.
Task<> FollowSession::check_backup(const Stamps& now) {
  std::vector<std::string> names;
  for (const auto& [name, bitmap] : known_.bitmaps)
    if (bitmap.points.size() == 1 && bitmap.home.empty() && find_bitmap(disk(), name, bitmap)) names.push_back(name);
  if (names.empty()) co_return;
  const std::string name = names[random_.below(names.size())];
  const Bitmap& bitmap = known_.bitmaps.at(name);
  std::vector<std::byte> content(FollowKnown::disk_size);
  for (std::size_t i = 0; i < bitmap.points.front().size(); ++i)
    SectorModel::fill(MutableBytes(content).subspan(i * SectorModel::sector, SectorModel::sector), bitmap.points.front()[i]);
  world_.disk().make_directory("/t");
  world_.disk().import_file(target, content);
  known_.formats[target] = "raw";
  co_await add_node(target, false);
  Json arguments = Json::object({{"job-id", "j"}, {"device", root()}, {"target", "target"}, {"sync", "bitmap"}});
  arguments.set(bitmap.checkpoint ? "since" : "bitmap", name);
  if (!bitmap.checkpoint) arguments.set("bitmap-mode", "never");
  co_await execute("blockdev-backup", std::move(arguments));
  co_await finish_job();
  BlockNode* copy = co_await unwrap(daemon_->graph().lookup("target"));
  const Stamps copied = co_await read(*copy);
  if (copied != now) co_await wrong("a backup since " + name + " is not the disk");
  Json node = Json::object({{"node-name", "target"}});
  co_await execute("blockdev-del", std::move(node));
}

// All is closed: images and their stores, and in an image what its disk's bitmaps say, for others to believe.
Task<> FollowSession::check_files() {
  const std::vector<std::string> names = co_await fs::list(process_.reactor(), "/d");
  for (const std::string& name : names) {
    const std::string path = "/d/" + name;
    const bool store = path.ends_with(".tidemark");
    const std::string image = store ? path.substr(0, path.size() - 9) : path;
    if (!known_.formats.contains(image) || !world_.disk().exists(image)) co_await wrong("'" + path + "' was left behind");
  }
  if (known_.formats.at(known_.disk) != "qcow2") co_return;
  const auto stored = co_await unwrap(bitmaps_in_qcow2(world_.disk().file(known_.disk)->visible()));
  for (const auto& [name, bitmap] : known_.bitmaps) {
    if (!bitmap.home.empty() || bitmap.checkpoint || !bitmap.there || bitmap.gone) continue;
    const auto found = std::ranges::find(stored, name, &StoredBitmap::name);
    if (found == stored.end()) co_await wrong("bitmap " + name + " is not in the image");
    if (found->in_use) co_await wrong("bitmap " + name + " is in use in the image");
  }
}

}  // namespace tidemark::sim
