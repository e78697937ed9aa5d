#include "app/cli/copy_run.hpp"

#include <array>
#include <filesystem>

#include <fmt/format.h>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/image/session.hpp"
#include "app/images.hpp"
#include "app/new_file.hpp"
#include "block/status.hpp"
#include "image/copy.hpp"
#include "io/posix/clone.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration poll_interval = std::chrono::milliseconds(50);
constexpr std::string_view mark = "tidemark-copy-", ending = ".qcow2";
constexpr std::uint64_t lock_at = 1000;          // a byte that no image lock is about

// Ends with the file.
Task<> lock(File& file) {
  LockRequest request;
  request.mode = LockRequest::Mode::exclusive;
  request.offset = lock_at;
  request.length = 1;
  co_await file.lock(request);
}

Task<File> open_to_lock(Reactor& reactor, std::string path) {
  OpenFlags flags;
  flags.write = true;
  co_return co_await File::open(reactor, std::move(path), flags);
}

// The endings by which overlays of copies are told apart; of all that lie beside the image.
Task<std::vector<std::string>> overlays_beside(Reactor& reactor, std::string image) {
  const std::filesystem::path path(image);
  const std::string beginning = fmt::format("{}.{}", path.filename().string(), mark);
  const auto names = co_await fs::list(reactor, path.parent_path().string());
  std::vector<std::string> suffixes;
  for (const std::string& name : names)
    if (name.starts_with(beginning) && name.ends_with(ending) && name.size() >= beginning.size() + ending.size())
      suffixes.push_back(name.substr(beginning.size(), name.size() - beginning.size() - ending.size()));
  co_return std::move(suffixes);
}

std::string overlay_path(const std::string& image, std::string_view suffix) {
  return fmt::format("{}.{}{}{}", image, mark, suffix, ending);
}

// The header of a new image is written last: nobody has used one that has none.
Task<bool> has_header(Reactor& reactor, std::string path) {
  const OpenFlags reading;
  File file = co_await File::open(reactor, std::move(path), reading);
  std::array<std::byte, 4> magic{};
  const Result<> read = co_await file.read(0, Buffers(MutableBytes(magic))).result();       // zeroes behind the end
  co_await file.close();
  co_await unwrap(read);
  co_return magic != std::array<std::byte, 4>{};
}

// Also one that was not made whole.
Task<bool> is_empty(Reactor& reactor, std::string path, bool force_share) {
  const bool made = co_await has_header(reactor, path);
  if (!made) co_return true;
  const std::function<Task<bool>(Session&)> body = [&](Session& session) -> Task<bool> {
    Qcow2OpenOptions as_it_is;
    as_it_is.read_only = true;
    BlockNode* image = co_await session.open_qcow2_node(path, std::move(as_it_is), force_share);
    for (Range left{0, image->size()}; !left.empty();) {
      const BlockStatus status = co_await block_status_above(*image, nullptr, left);
      if (status.allocated) co_return false;
      left = {status.range.end(), left.end() - status.range.end()};
    }
    co_return true;
  };
  co_return co_await in_session<bool>(reactor, body);
}

std::string what_to_do(const std::string& image) {
  return fmt::format("merge it into '{}' before that is served again (tidemark image commit), or remove it if nobody needs it", image);
}

Error left_behind(const std::string& overlay, const std::string& image) {
  return Error(Errc::exists, fmt::format("'{}' is there: a daemon has ended during a copy, and it has what guests wrote then; {}",
                                         overlay, what_to_do(image)));
}

// Below filters, a backup's that runs as well, and what copies that have not ended well have left.
std::string image_of(const Json& nodes, std::string name) {
  for (;;) {
    name = image_of_disk(nodes, std::move(name));
    const Json* node = name.starts_with(mark) ? find_by(nodes, "node-name", name) : nullptr;
    const Json* children = node ? node->find("children") : nullptr;
    const Json* below = children ? find_by(*children, "child", "backing") : nullptr;
    if (!below) return name;
    name = text(*below, "node-name");
  }
}

}  // namespace

// One that is in use is a daemon's, which has the image, too.
Task<> check_no_copy_left(Reactor& reactor, std::string image) {
  image = behind_links(std::move(image));              // they lie beside the file itself
  const auto suffixes = co_await overlays_beside(reactor, image).result();
  if (!suffixes) co_return;                            // to open the image will say why
  for (const std::string& suffix : *suffixes) {
    const std::string path = overlay_path(image, suffix);
    const auto empty = co_await is_empty(reactor, path, false).result();
    const bool passed = empty ? *empty : empty.error().code() == Errc::busy || empty.error().code() == Errc::not_found;
    if (!passed) co_await left_behind(path, image);
  }
}

CopyRun::CopyRun(const Context& context, QmpClient& client, CopyOptions options)
    : context_(context), client_(client), options_(std::move(options)) {}

CopyRun::Overlay CopyRun::overlay_of(std::string_view suffix) const {
  return {overlay_path(image_, suffix), fmt::format("{}{}", mark, suffix)};
}

Task<CopyRun::Report> CopyRun::run() {
  co_await check_daemon();
  co_await find_disk();
  co_await see_to_what_is_left();
  auto make = [this](std::string partial) -> Task<> {
    co_await create_file(context_.reactor, partial, 0, FilePreallocation::off);      // what cannot be made does not begin
    co_await copy_by_overlay(std::move(partial));
  };
  co_await make_file(context_.reactor, options_.file, make);
  co_return report_;
}

// Others leave what they have merged as it was, and then nobody knows later which of the two has the newer content.
Task<> CopyRun::check_daemon() {
  const Json commands = co_await client_.execute("query-commands");
  if (!find_by(commands, "name", "block-dirty-bitmap-clear-suspected"))
    co_await Error(Errc::unsupported, "the daemon is not tidemarkd, which copy needs");
}

Task<> CopyRun::find_disk() {
  const Disks disks = co_await all_disks(client_);
  node_ = image_of(disks.nodes, node_of_disk(disks, options_.disk));
  const Json* node = find_by(disks.nodes, "node-name", node_);
  if (!node) co_await Error(Errc::not_found, fmt::format("the daemon has no node '{}'", options_.disk));
  image_ = text(*node, "file");
  format_ = text(*node, "drv");
  const auto info = co_await fs::stat(context_.reactor, image_).result();
  const bool usable = info && info->type == FileInfo::Type::regular && (format_ == "raw" || format_ == "qcow2");
  if (!usable)
    co_await Error(Errc::unsupported, fmt::format("disk '{}' ({}, '{}') is not a raw or qcow2 file on this machine",
                                                  options_.disk, format_, image_));
  if (!image_.starts_with('/'))
    co_await Error(Errc::unsupported, fmt::format("disk '{}' is '{}' in the daemon's directory, which may be another; serve it by its "
                                                  "absolute name", options_.disk, image_));
  image_ = behind_links(std::move(image_));
  co_await check_node(*node, disks.nodes);
}

// What a copy of the file would not hold, or what would be in the way when the overlay is merged.
Task<> CopyRun::check_node(const Json& node, const Json& nodes) {
  const auto refused = [this](const std::string& why) {
    return Error(Errc::unsupported, fmt::format("disk '{}' {}; use tidemark backup", options_.disk, why));
  };
  if (const std::string below = text(node, "backing_file"); !below.empty())
    co_await refused(fmt::format("stands on '{}': a copy of its file alone would not be all of it", below));
  if (const Json* children = node.find("children"))
    if (find_by(*children, "child", "data-file"))
      co_await refused("keeps its data in a file of its own: a copy of the image would be another name for it");
  for (const std::string& other : nodes_on(nodes, node_)) {
    if (other.starts_with(mark)) continue;
    co_await see_to_what_is_left();                    // another copy's, which has not got its name yet
    co_await refused(fmt::format("has node '{}' on it", other));
  }
}

Task<> CopyRun::see_to_what_is_left() {
  const auto suffixes = co_await overlays_beside(context_.reactor, image_);
  for (const std::string& suffix : suffixes) co_await see_to(overlay_of(suffix));
}

Error CopyRun::under_way() const { return Error(Errc::busy, fmt::format("another copy of disk '{}' is under way", options_.disk)); }

// One that is being used is locked.
Task<> CopyRun::see_to(Overlay left) {
  auto opened = co_await open_to_lock(context_.reactor, left.path).result();
  if (!opened && opened.error().code() == Errc::not_found) co_return;        // whose it was has ended
  File file = co_await unwrap(std::move(opened));
  auto merged = [&]() -> Task<> {
    const Result<> locked = co_await lock(file).result();
    if (!locked) co_await under_way();
    const bool there = co_await fs::exists(context_.reactor, left.path);
    if (!there) co_return;
    const bool on_top = co_await is_in_daemon(left.name);
    report_.merged_before = report_.merged_before || on_top;
    if (on_top) co_return co_await merge(left);
    const Json ended = co_await job(left.name);
    if (ended.is_object()) co_await command_for_job("job-dismiss", left.name);
    const bool empty = co_await is_empty(context_.reactor, left.path, true);
    if (!empty) co_await left_behind(left.path, image_);
    co_await fs::unlink(context_.reactor, left.path);
  };
  auto close = [&file]() -> Task<> { return file.close(); };
  co_await finally(merged(), close);
}

Task<> CopyRun::copy_by_overlay(std::string partial) {
  const Overlay overlay = overlay_of(fmt::format("{:08x}", context_.reactor.backend().random() & 0xffffffff));
  File file = co_await make_locked(overlay.path);
  auto copied = [&]() -> Task<> { return copy_beside_guests(std::move(partial), overlay); };
  auto close = [&file]() -> Task<> { return file.close(); };
  co_await finally(copied(), close);
}

// Before there is anything in it: others take one that nobody has locked for what a run before has left.
Task<File> CopyRun::make_locked(std::string path) {
  OpenFlags flags;
  flags.write = flags.create = flags.exclusive = true;
  File file = co_await File::open(context_.reactor, path, flags);
  const Result<> locked = co_await lock(file).result();
  Result<> made = locked;
  if (locked) made = co_await make_overlay(path).result();
  if (made) co_return std::move(file);
  if (locked) (void)co_await fs::unlink(context_.reactor, path).result();
  (void)co_await file.close().result();
  if (!locked) co_await under_way();
  co_await made.error();
  co_return File();
}

Task<> CopyRun::make_overlay(std::string path) {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  const Json* node = find_by(nodes, "node-name", node_);
  const Json* shown = node ? node->find("image") : nullptr;
  if (!shown) co_await Error(Errc::not_found, fmt::format("node '{}' has gone", node_));
  FormatOptions options;
  options.qcow2.size = number(*shown, "virtual-size");
  options.qcow2.backing_file = image_;
  options.qcow2.backing_format = format_;
  co_await make_image(context_.reactor, std::move(path), "qcow2", std::move(options));
}

// Whatever may have reached the daemon is undone.
Task<> CopyRun::copy_beside_guests(std::string partial, Overlay overlay) {
  Result<> copied = co_await snapshot(overlay).result();
  if (copied) copied = co_await copy(std::move(partial)).result();
  const auto on_top = co_await is_in_daemon(overlay.name).result();
  Result<> merged;
  if (!on_top) merged = on_top.error();
  else if (*on_top) merged = co_await merge(overlay).result();
  else merged = co_await fs::unlink(context_.reactor, overlay.path).result();
  if (merged) co_return co_await unwrap(copied);
  const std::string why = fmt::format("disk '{}' may stand on '{}', which could not be merged: {}", options_.disk, overlay.path,
                                      merged.error().message());
  co_await Error(merged.error().code(), fmt::format("{}; run this again when the daemon serves the disk; if it has ended, {}", why,
                                                    what_to_do(image_)));
}

Task<> CopyRun::snapshot(Overlay overlay) {
  Json arguments = Json::object({{"node-name", node_}, {"snapshot-file", overlay.path}, {"snapshot-node-name", overlay.name},
                                 {"format", "qcow2"}, {"mode", "existing"}});
  const auto taken = co_await client_.execute("blockdev-snapshot-sync", std::move(arguments)).result();
  if (taken) co_return;
  const auto all = co_await overlays_beside(context_.reactor, image_).result();
  if (all && all->size() > 1) co_await under_way();      // it was first
  co_await taken.error();
}

Task<> CopyRun::copy(std::string partial) {
  report_.cloned = co_await unwrap(clone_file(image_, partial));
  if (!report_.cloned) co_await copy_data(partial);
  File file = co_await open_to_lock(context_.reactor, partial);
  auto sync = [&file]() -> Task<> { return file.sync(); };
  auto close = [&file]() -> Task<> { return file.close(); };
  co_await finally(sync(), close);
  const FileInfo info = co_await fs::stat(context_.reactor, partial);
  report_.bytes = info.size;
}

Task<> CopyRun::copy_data(std::string partial) {
  const FileInfo info = co_await fs::stat(context_.reactor, image_);
  co_await create_file(context_.reactor, partial, info.size, FilePreallocation::off);
  Progress progress(context_, "copy");
  const std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess reading, writing;
    reading.force_share = true;
    writing.write = true;
    ImageName from{image_, "raw"}, to{partial, "raw"};
    Edge* source = co_await session.open(std::move(from), reading);
    Edge* target = co_await session.open(std::move(to), writing);
    image::CopyOptions how;
    how.course.interrupted = context_.interrupted;
    how.course.speed = options_.speed;
    how.course.progress = [&](std::uint64_t done) { progress.update(done, info.size); };
    how.target_is_zero = true;
    const Range all{0, source->size()};
    (void)co_await image::copy_disk(*source, all, *target, std::move(how));
    co_await target->flush();
  };
  co_await in_session<void>(context_.reactor, body, context_.interrupted);
}

Task<bool> CopyRun::is_in_daemon(std::string node) {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  co_return find_by(nodes, "node-name", node) != nullptr;
}

// Null when it is gone.
Task<Json> CopyRun::job(std::string id) {
  const Json jobs = co_await client_.execute("query-jobs");
  const Json* found = find_by(jobs, "id", id);
  if (found) co_return *found;
  co_return Json();
}

Task<> CopyRun::command_for_job(std::string_view command, std::string id) {
  Json arguments = Json::object({{"id", std::move(id)}});
  co_await client_.execute(std::string(command), std::move(arguments));
}

Task<> CopyRun::start_merging(std::string name) {
  const Json running = co_await job(name);
  if (running.is_object() && text(running, "status") != "concluded") co_return;
  if (running.is_object()) co_await command_for_job("job-dismiss", name);
  Result<> started = co_await begin_commit(name).result();
  for (bool told = false; !started; told = true) {
    const bool busy = co_await is_below_job(name);       // a backup that began during the copy
    if (busy) co_await wait_for_other_job(!told);
    started = co_await begin_commit(name).result();      // that job may have ended since, too
    if (!busy) co_await unwrap(started);
  }
}

Task<> CopyRun::begin_commit(std::string name) {
  Json arguments = Json::object({{"job-id", name}, {"device", name}, {"base-node", node_}, {"empty-active", true},
                                 {"auto-dismiss", false}});
  co_await client_.execute("block-commit", std::move(arguments));
}

Task<> CopyRun::wait_for_other_job(bool tell) {
  if (context_.interrupted.requested())
    co_await Error(Errc::busy, fmt::format("interrupted while another job has disk '{}' yet", options_.disk));
  if (tell && !context_.json)
    print_error(Error(Errc::busy, fmt::format("another job has disk '{}'; what guests write is merged when that has ended",
                                              options_.disk)), false);
  co_await context_.reactor.sleep(poll_interval);
}

// Whose filter is on top of it, and goes with the job.
Task<bool> CopyRun::is_below_job(std::string name) {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  const auto is_one = [&](const Json& node) { return text(node, "node-name").starts_with('#') && has_child(node, name); };
  co_return std::ranges::any_of(items(nodes), is_one);
}

// That, or its end.
Task<Json> CopyRun::wait_for(std::string id, std::string_view status) {
  for (;;) {
    Json now = co_await job(id);
    if (!now.is_object()) co_await Error(Errc::io, fmt::format("somebody else dismissed job '{}'", id));
    if (const std::string is = text(now, "status"); is == status || is == "concluded") co_return std::move(now);
    co_await context_.reactor.sleep(poll_interval);
  }
}

// Not to be interrupted: guests would go on in a file that is to go.
Task<> CopyRun::merge(Overlay overlay) {
  co_await start_merging(overlay.name);
  Json now = co_await wait_for(overlay.name, "ready");
  if (text(now, "status") == "ready") {
    co_await command_for_job("job-complete", overlay.name);
    now = co_await wait_for(overlay.name, "concluded");
  }
  co_await command_for_job("job-dismiss", overlay.name);
  if (const std::string error = text(now, "error"); !error.empty()) co_await Error(Errc::io, error);
  const bool there = co_await is_in_daemon(overlay.name);      // else it went with its last user
  Json node = Json::object({{"node-name", overlay.name}});
  if (there) co_await client_.execute("blockdev-del", std::move(node));
  co_await fs::unlink(context_.reactor, overlay.path);
}

}  // namespace tidemark::cli
