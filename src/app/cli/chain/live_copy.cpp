#include "app/cli/chain/live_copy.hpp"

#include <algorithm>
#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "app/cli/chain/jobs.hpp"
#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/make.hpp"
#include "app/new_file.hpp"
#include "io/file.hpp"

namespace tidemark::cli {

LiveCopy::LiveCopy(const Context& context, QmpClient& client, const ChainCopyOptions& options, Json layers)
    : context_(context), client_(client), options_(options), layers_(std::move(layers)) {}

Task<LiveCopy::Report> LiveCopy::run() {
  co_await find_source();
  co_await check_target();
  const auto path = local_path(options_.target);
  if (path && !options_.reuse) co_await to_new_file(*path);
  else {
    ImageName target{options_.target, options_.format};
    co_await mirror_to(std::move(target));
  }
  co_return report_;
}

Task<> LiveCopy::find_source() {
  source_ = text(items(layers_)[0], "node-name");
  const Json nodes = co_await all_nodes(client_);
  const Json node = co_await unwrap(node_in(nodes, source_));
  if (const Json* image = node.find("image")) report_.size = number(*image, "virtual-size");
  if (const Json* cache = node.find("cache")) {
    direct_ = flag(*cache, "direct");
    no_flush_ = flag(*cache, "no-flush");
  }
  const auto path = local_path(options_.target);
  report_.node = free_node_name(nodes, path ? *path : options_.chain.top + "-copy");
}

Task<> LiveCopy::check_target() {
  const auto path = local_path(options_.target);
  format_ = options_.format;
  if (format_.empty() && path && !options_.reuse) format_ = text(items(layers_)[0], "driver");
  if (options_.shallow && items(layers_).size() < 2)
    co_await Error(Errc::invalid_argument, fmt::format("nothing is below '{}': leave --shallow out", options_.chain.top));
  std::string below;
  if (options_.shallow) below = text(items(layers_)[1], "filename");
  if (options_.shallow && !below.starts_with('/'))
    co_await Error(Errc::unsupported, fmt::format("'{}', below '{}', is no file by its absolute name, which --shallow needs", below,
                                                  options_.chain.top));
  if (options_.shallow && (!path || (!format_.empty() && format_ != "qcow2")))
    co_await Error(Errc::invalid_argument, "a copy that is shallow stands on what the disk stands on: its target is a qcow2 file");
  if (!path) co_return;
  if (options_.reuse) co_return co_await check_reused(*path);
  const bool there = co_await fs::exists(context_.reactor, *path);
  if (there) co_await target_exists();
}

Error LiveCopy::target_exists() const {
  return Error(Errc::exists, fmt::format("'{}' exists; copy into it with --reuse, or choose another name", options_.target));
}

// What the image names below it is what shows where it holds nothing.
Task<> LiveCopy::check_reused(std::string path) {
  ImageName name{path, options_.format};
  format_ = co_await format_of(context_.reactor, name, false);
  std::string below;
  if (format_ == "qcow2") {
    const qcow2::Header header = co_await read_header(context_.reactor, path);
    if (!header.backing_name.empty()) {
      const ImageName backing = co_await backing_of(context_.reactor, path, header.backing_name, header.backing_format);
      const std::vector<ImageName> chain = co_await chain_of(context_.reactor, backing);
      co_await unwrap(check_none_alone(chain));
      below = backing.name;
    }
  }
  if (!options_.shallow && !below.empty())
    co_await Error(Errc::invalid_argument, fmt::format("'{}' stands on '{}': a copy of all needs a target that stands on nothing", path,
                                                       below));
  if (!options_.shallow) co_return;
  const std::string wanted = text(items(layers_)[1], "filename");
  const bool same = co_await is_same_file(context_.reactor, below, wanted);
  if (!same) co_await Error(Errc::invalid_argument, fmt::format("'{}' does not stand on '{}', as the disk does", path, wanted));
}

// What the disk goes over to has its name from the beginning: nothing is there that could be looked at, and held meanwhile.
Task<> LiveCopy::to_new_file(std::string path) {
  std::optional<NewFile> file;
  std::string name = path;
  if (!goes_over()) {
    file.emplace(co_await NewFile::begin(context_.reactor, path));
    name = file->partial();
    co_await remove_what_is_left(name);
    co_await file->make_partial();
  }
  auto done = co_await make(name).result();
  if (!done && !file) leave_if_taken(taken_, done.error());
  if (done) {
    ImageName target{name, format_};
    done = co_await mirror_to(std::move(target)).result();
  }
  if (done && file) done = co_await file->publish().result();
  if (!done && !in_daemon_) {
    if (file) (void)co_await file->discard().result();
    else (void)co_await undo_create_file(context_.reactor, taken_).result();
  }
  if (file) (void)co_await file->let_go().result();
  if (done) co_return;
  if (in_daemon_) co_await done.error().with_context(fmt::format("'{}' stays, for the daemon may use it", name));
  if (done.error().code() == Errc::cancelled) co_await Error(Errc::cancelled, "interrupted; nothing was left behind");
  co_await done.error();
}

// By a copy that was killed.  The node of one that is under way is in use.
Task<> LiveCopy::remove_what_is_left(std::string path) {
  const Json nodes = co_await all_nodes(client_);
  for (const Json& node : items(nodes)) {
    if (text(node, "file") != path || node.find("image") == nullptr || text(node, "drv") == "file") continue;
    const auto removed = co_await remove_node(client_, text(node, "node-name")).result();
    if (!removed)
      co_await Error(Errc::busy, fmt::format("another copy to '{}' is under way; see 'tidemark job list' ({})", path,
                                             removed.error().message()));
  }
}

// Only one of two that are started at once makes it: the other would remove what the disk has gone over to.
Task<> LiveCopy::take_name(std::string path) {
  OpenFlags flags;
  flags.write = flags.create = flags.exclusive = true;
  std::string parent = std::filesystem::path(path).parent_path().string();
  if (parent.empty()) parent.push_back('.');
  auto opened = co_await File::open(context_.reactor, path, flags).result();
  if (!opened && opened.error().code() == Errc::exists) co_await target_exists();
  File file = co_await unwrap(std::move(opened));
  const auto info = co_await file.stat().result();
  if (info) taken_ = CreatedFile{path, info->device, info->inode, Replaced::nothing};
  const auto closed = co_await file.close().result();
  if (!info) (void)co_await fs::unlink(context_.reactor, path).result();
  co_await unwrap(info);
  co_await unwrap(closed);
  co_await fs::sync_dir(context_.reactor, std::move(parent));      // what the disk goes over to has a name after a crash, too
}

Task<> LiveCopy::make(std::string path) {
  if (goes_over()) co_await take_name(path);
  FormatOptions format;
  format.qcow2.size = report_.size;
  if (options_.shallow) {
    format.qcow2.backing_file = text(items(layers_)[1], "filename");
    format.qcow2.backing_format = text(items(layers_)[1], "driver");
  }
  co_await make_image(context_.reactor, path, format_, std::move(format));
  made_ = true;
}

Task<Json> LiveCopy::describe_target(ImageName target) {
  ImageAccess access;
  access.write = true;
  access.below = false;
  Json description = co_await describe(context_.reactor, std::move(target), access);
  description.set("node-name", report_.node);
  description.set("discard", "unmap");
  // A copy that is told to be whole is so after a power cut.
  description.set("cache", Json::object({{"direct", direct_}, {"no-flush", no_flush_ && goes_over()}}));
  if (options_.shallow) description.set("backing", text(items(layers_)[1], "node-name"));
  co_return std::move(description);
}

Task<> LiveCopy::mirror_to(ImageName target) {
  Json description = co_await describe_target(std::move(target));
  in_daemon_ = true;
  const auto added = co_await client_.execute("blockdev-add", std::move(description)).result();
  Result<> mirrored;
  if (!added) mirrored = added.error();
  else mirrored = co_await mirror().result();
  if (mirrored) co_return co_await see_to_nodes();
  if (added) (void)co_await remove_node(client_, report_.node).result();       // goes even where it cannot be closed well
  const auto nodes = co_await all_nodes(client_).result();
  in_daemon_ = !nodes || find_by(*nodes, "node-name", report_.node);
  if (mirrored.error().code() == Errc::cancelled && !made_)
    co_await Error(Errc::cancelled, fmt::format("interrupted; '{}' is incomplete", options_.target));
  co_await mirrored.error();
}

Task<> LiveCopy::mirror() {
  DaemonJob job;
  job.command = "blockdev-mirror";
  if (!options_.pivot) job.when_ready = options_.stay ? WhenReady::stay : WhenReady::let_go;
  job.arguments = Json::object({{"device", source_}, {"target", report_.node}, {"sync", options_.shallow ? "top" : "full"}});
  if (made_ && !options_.shallow) job.arguments.set("target-is-zero", true);
  if (options_.speed != 0) job.arguments.set("speed", options_.speed);
  std::string name = co_await run_job(context_, client_, std::move(job));
  if (options_.pivot) co_await check_gone_over();
  if (options_.stay) report_.job = std::move(name);
}

// Somebody else may have ended the job, and let go of the target.
Task<> LiveCopy::check_gone_over() {
  const Json exports = co_await client_.execute("query-block-exports");
  const Json nodes = co_await all_nodes(client_);
  const bool shown = find_by(exports, "node-name", source_) || std::any_of(items(nodes).begin(), items(nodes).end(), [&](const Json& node) {
    return has_child(node, source_);               // a filter, too, that guests see it through
  });
  if (shown)
    co_await Error(Errc::busy, fmt::format("somebody else has ended the copy: '{}' is still on node '{}'", options_.chain.top, source_));
}

Task<> LiveCopy::see_to_nodes() {
  if (options_.stay) co_return;
  if (!options_.pivot) {
    co_await remove_node(client_, report_.node);
    in_daemon_ = false;
    report_.node.clear();
    co_return;
  }
  const LeftNode left = co_await let_go_of(client_, source_, report_.node);
  report_.bitmaps = left.bitmaps;
  if (left.there) report_.left = source_;
}

}  // namespace tidemark::cli
