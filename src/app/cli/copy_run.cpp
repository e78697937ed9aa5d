#include "app/cli/copy_run.hpp"

#include <fmt/format.h>

#include "app/cli/fields.hpp"
#include "app/cli/image/new_file.hpp"
#include "app/cli/image/session.hpp"
#include "image/copy.hpp"
#include "io/file.hpp"
#include "io/posix/clone.hpp"
#include "storage/file.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration poll_interval = std::chrono::milliseconds(100);

// Node names have 31 characters at most, and a disk's may have as many.
std::string own_name(const std::string& disk) {
  return fmt::format("tidemark-copy-{:016x}", std::hash<std::string>()(disk));
}

Json node_called(const std::string& name) { return Json::object({{"node-name", name}}); }

}  // namespace

CopyRun::CopyRun(const Context& context, QmpClient& client, CopyOptions options)
    : context_(context), client_(client), options_(std::move(options)), own_(own_name(options_.disk)) {}

Task<CopyRun::Report> CopyRun::run() {
  co_await find_disk();
  co_await find_left_behind();
  auto make = [this](std::string partial) -> Task<> {
    co_await create_file(context_.reactor, partial, 0, FilePreallocation::off);      // what cannot be made does not begin
    co_await copy_beside_guests(std::move(partial));
  };
  co_await make_file(context_.reactor, options_.file, make);
  co_return report_;
}

Task<> CopyRun::copy_beside_guests(std::string partial) {
  co_await snapshot();
  const Result<> copied = co_await copy(std::move(partial)).result();
  const Result<> merged = co_await merge().result();
  if (merged) co_return co_await unwrap(copied);
  if (merged.error().code() == Errc::disconnected)
    co_await Error(Errc::disconnected, fmt::format("the daemon has ended: what guests wrote since the copy began is in '{}'; {}",
                                                   overlay(), what_to_do()));
  co_await Error(merged.error().code(),
                 fmt::format("disk '{}' stands on '{}', which could not be merged ({}): run this again, or merge it with block-commit",
                             options_.disk, overlay(), merged.error().message()));
}

Task<> CopyRun::find_disk() {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  const Json* node = find_by(nodes, "node-name", options_.disk);
  if (!node) co_await Error(Errc::not_found, fmt::format("the daemon has no node '{}'", options_.disk));
  image_ = text(*node, "file");
  format_ = text(*node, "drv");
  const auto info = co_await fs::stat(context_.reactor, image_).result();
  const bool usable = info && info->type == FileInfo::Type::regular && (format_ == "raw" || format_ == "qcow2");
  if (!usable) co_await Error(Errc::unsupported, fmt::format("disk '{}' ({}, '{}') is not a raw or qcow2 file on this machine",
                                                             options_.disk, format_, image_));
  if (!text(*node, "backing_file").empty())
    co_await Error(Errc::unsupported, fmt::format("disk '{}' stands on '{}': a copy of its file alone would not be all of it; use "
                                                  "tidemark backup", options_.disk, text(*node, "backing_file")));
}

std::string CopyRun::what_to_do() const {
  return fmt::format("merge it into '{}' before that is served again (tidemark image commit), or remove it if nobody needs it", image_);
}

Task<> CopyRun::find_left_behind() {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  if (find_by(nodes, "node-name", own_)) {
    co_await merge();
    report_.merged_before = true;
    co_return;
  }
  const bool there = co_await fs::exists(context_.reactor, overlay());
  if (there)
    co_await Error(Errc::exists, fmt::format("'{}' is there: a daemon has ended during a copy, and it has what guests wrote then; {}",
                                             overlay(), what_to_do()));
}

// A daemon in another directory would take a relative name for another file.
Task<> CopyRun::snapshot() {
  Json arguments = Json::object({{"node-name", options_.disk}, {"snapshot-file", overlay()}, {"snapshot-node-name", own_},
                                 {"format", "qcow2"}, {"mode", "absolute-paths"}});
  co_await client_.execute("blockdev-snapshot-sync", std::move(arguments));
  const bool there = co_await fs::exists(context_.reactor, overlay());
  if (there) co_return;
  const Result<> merged = co_await merge().result();
  const std::string left = merged ? std::string() : ", where '" + overlay() + "' is left";
  co_await Error(Errc::unsupported, fmt::format("'{}' is a name in the daemon's directory or on its machine{}; serve disks by "
                                                "absolute names", image_, left));
}

Task<> CopyRun::copy(std::string partial) {
  report_.cloned = co_await unwrap(clone_file(image_, partial));
  if (!report_.cloned) co_await copy_data(partial);
  OpenFlags flags;
  flags.write = true;
  File file = co_await File::open(context_.reactor, partial, flags);
  const Result<> synced = co_await file.sync().result();
  (void)co_await file.close().result();
  co_await unwrap(synced);
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
  co_await in_session<void>(context_.reactor, body);
}

// Null when it is gone.
Task<Json> CopyRun::job() {
  const Json jobs = co_await client_.execute("query-jobs");
  const Json* found = find_by(jobs, "id", own_);
  co_return found ? *found : Json();
}

Task<> CopyRun::start_merging() {
  const Json running = co_await job();
  if (running.is_object() && text(running, "status") != "concluded") co_return;
  if (running.is_object()) {
    Json failed = Json::object({{"id", own_}});
    co_await client_.execute("job-dismiss", std::move(failed));
  }
  Json arguments = Json::object({{"job-id", own_}, {"device", own_}, {"base-node", options_.disk}, {"auto-dismiss", false}});
  co_await client_.execute("block-commit", std::move(arguments));
}

Task<Json> CopyRun::wait_for(std::string_view status, std::string_view instead) {
  for (;;) {
    Json now = co_await job();
    if (!now.is_object()) co_await Error(Errc::io, fmt::format("somebody else dismissed job '{}'", own_));
    if (const std::string is = text(now, "status"); is == status || is == instead) co_return std::move(now);
    co_await context_.reactor.sleep(poll_interval);
  }
}

// Not to be interrupted: guests would go on in a file that is to go.
Task<> CopyRun::merge() {
  co_await start_merging();
  Json now = co_await wait_for("ready", "concluded");
  if (text(now, "status") == "ready") {
    Json which = Json::object({{"id", own_}});
    co_await client_.execute("job-complete", std::move(which));
    now = co_await wait_for("concluded", "concluded");
  }
  Json ended = Json::object({{"id", own_}});
  co_await client_.execute("job-dismiss", std::move(ended));
  if (const std::string error = text(now, "error"); !error.empty()) co_await Error(Errc::io, error);
  co_await remove_overlay();
}

// Its node may have gone with its last user.
Task<> CopyRun::remove_overlay() {
  const Json nodes = co_await client_.execute("query-named-block-nodes");
  if (find_by(nodes, "node-name", own_)) {
    Json which = node_called(own_);
    co_await client_.execute("blockdev-del", std::move(which));
  }
  const bool there = co_await fs::exists(context_.reactor, overlay());
  if (there) co_await fs::unlink(context_.reactor, overlay());
}

}  // namespace tidemark::cli
