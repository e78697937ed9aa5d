#include "control/jobs/mirror_actions.hpp"

#include <fmt/format.h>

#include "block/status.hpp"
#include "control/jobs/job_policy.hpp"
#include "control/jobs/sync_modes.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/images_made.hpp"
#include "job/disk_use.hpp"
#include "storage/file.hpp"

namespace tidemark {
namespace {

Error refused(std::string why) { return Error(Errc::invalid_argument, std::move(why)); }

Result<MirrorOptions> to_options(const schema::MirrorCommon& given, BlockNode& source) {
  if (given.speed < 0) return refused("Parameter 'speed' expects a non-negative value");
  MirrorOptions options;
  options.job.id = given.job_id.value_or("");
  options.job.auto_finalize = given.auto_finalize;
  options.job.auto_dismiss = given.auto_dismiss;
  options.job.speed = static_cast<std::uint64_t>(given.speed);
  options.source = &source;
  options.replaces = given.replaces;
  options.sync = to_sync(given.sync);
  options.bitmap.name = given.bitmap;
  if (given.bitmap_mode) options.bitmap.mode = to_bitmap_mode(*given.bitmap_mode);
  options.granularity = given.granularity;
  options.buf_size = given.buf_size;
  options.on_source_error = to_policy(given.on_source_error);
  options.on_target_error = to_policy(given.on_target_error);
  const bool background = given.copy_mode == schema::MirrorCopyMode::background;
  options.copy_mode = background ? CopyMode::background : CopyMode::write_blocking;
  return options;
}

// On the nodes' thread.

Task<BlockNode*> look_up(Graph& graph, const std::string& name) { co_return co_await unwrap(graph.lookup(name)); }

// What can be told before there is a target: with another that is like it.
Task<> rehearse(Graph& graph, MirrorOptions options, const std::string& format, const std::string& node_name) {
  if (!node_name.empty()) co_await unwrap(graph.check_name(node_name));
  BlockNode* stand_in = co_await make_stand_in(graph, format, options.source->size());
  options.target = stand_in;
  const auto checked = check_mirror(options);
  co_await graph.release(*stand_in);
  if (!checked) co_await checked.error();
}

Result<> check_file(const schema::DriveMirror& given) {
  const bool existing = given.mode == schema::NewImageMode::existing;
  // The format of a file that is there already is not guessed: its content may be a guest's.
  if (existing && !given.format)
    return refused(fmt::format("the format of '{}' must be given with mode 'existing'", given.target));
  if (given.replaces && !given.node_name)
    return refused("a node-name must be provided when replacing a named node of the graph");
  return {};
}

Task<CreatedFile> make_file(Homes& homes, Place& place, std::string path, const std::string& format, std::uint64_t size,
                            BlockNode* below) {
  BackingName backing = co_await homes.at(place, name_below(below));
  co_await unwrap(check_backing(format, backing));
  co_return co_await homes.at(place, create_overlay_file(place.graph, std::move(path), format, size, std::move(backing)));
}

// On the nodes' thread.
Task<BlockNode*> open_target(Graph& graph, std::string path, std::string format, Backing backing, BlockNode* below, std::string name) {
  BlockNode* target = co_await open_image_file(graph, std::move(path), std::move(format), backing, std::move(name));
  if (!below) co_return target;
  const auto set = graph.set_backing(*target, below);
  if (!set) (void)co_await graph.release(*target).result();
  co_await unwrap(set);
  co_return target;
}

// What was attached and failed may have let go of it already.
Task<> release(Graph& graph, std::string name) {
  if (BlockNode* node = graph.find(name)) co_await graph.release(*node);
}

// `target` belongs to the job, or is gone.
Task<ManagedJob*> create_job_to(Homes& homes, JobManager& jobs, Place& place, BlockNode& target, MirrorOptions options) {
  options.target = &target;
  const std::string name = target.name();
  auto job = co_await MirrorJob::create(jobs, std::move(options)).result();
  if (!job) (void)co_await homes.at(place, release(place.graph, name)).result();
  co_return co_await unwrap(std::move(job));
}

}  // namespace

Task<ManagedJob*> make_mirror(Homes& homes, JobManager& jobs, ChainAccess& access, schema::BlockdevMirror arguments) {
  co_await homes.lookup(arguments.device);
  co_await homes.lookup(arguments.target);
  std::vector<std::string> nodes{arguments.device, arguments.target};
  Place* place = co_await homes.gather(std::move(nodes));
  BlockNode* source = co_await homes.at(*place, look_up(place->graph, arguments.device));
  BlockNode* target = co_await homes.at(*place, look_up(place->graph, arguments.target));
  MirrorOptions options = co_await unwrap(to_options(arguments, *source));
  options.target = target;
  co_await homes.at(*place, begin_to_write(*target));
  options.access = &access;
  options.filter_node_name = arguments.filter_node_name.value_or("");
  options.target_is_zero = arguments.target_is_zero;
  std::vector<std::string> names;
  if (arguments.filter_node_name) names.push_back(options.filter_node_name);
  co_await homes.check_free_elsewhere(std::move(names), *place);
  co_return co_await MirrorJob::create(jobs, std::move(options));
}

Task<ManagedJob*> make_mirror(Homes& homes, JobManager& jobs, ChainAccess& access, schema::DriveMirror arguments) {
  Place* place = co_await homes.lookup(arguments.device);
  BlockNode* source = co_await homes.at(*place, look_up(place->graph, arguments.device));
  MirrorOptions options = co_await unwrap(to_options(arguments, *source));
  options.unmap = arguments.unmap;
  options.access = &access;
  co_await unwrap(check_file(arguments));
  const std::string format = arguments.format.value_or(source->driver().name() == "qcow2" ? "qcow2" : "raw");
  const std::string node_name = arguments.node_name.value_or("");
  std::vector<std::string> names;
  if (arguments.node_name) names.push_back(node_name);
  co_await homes.check_free_elsewhere(std::move(names), *place);
  co_await unwrap(jobs.check_id(options.job.id));
  co_await check_disk_unused(jobs, *source, place->reactor);
  co_await homes.at(*place, rehearse(place->graph, options, format, node_name));
  const bool existing = arguments.mode == schema::NewImageMode::existing;
  const Backing backing = existing && options.sync != SyncMode::full ? Backing::followed : Backing::left_out;
  BlockNode* const below = existing ? nullptr : node_below(*source, arguments.sync);
  if (!existing) (void)co_await check_overwritable(jobs.reactor(), arguments.target);
  options.onto_source = !existing && options.sync == SyncMode::none;
  BlockNode* const now = options.onto_source ? nullptr : below;     // the source is no backing file while guests write to it
  CreatedFile created;
  auto begin = [&]() -> Task<ManagedJob*> {
    if (!existing) created = co_await make_file(homes, *place, arguments.target, format, source->size(), below);
    const auto target = co_await homes.at(*place, open_target(place->graph, arguments.target, format, backing, now, node_name)).result();
    if (!target) leave_if_taken(created, target.error());
    co_await unwrap(target);
    co_return co_await create_job_to(homes, jobs, *place, **target, std::move(options));
  };
  auto job = co_await begin().result();
  if (!job) (void)co_await undo_create_file(jobs.reactor(), std::move(created)).result();
  co_return co_await unwrap(std::move(job));
}

}  // namespace tidemark
