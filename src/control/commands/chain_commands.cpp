#include "control/commands/chain_commands.hpp"

#include <fmt/format.h>

#include "control/graph/chain_lookup.hpp"
#include "control/jobs/chain_actions.hpp"
#include "job/chain/chain_names.hpp"
#include "job/mirror/mirror.hpp"

namespace tidemark {
namespace {

// On the nodes' thread.

Task<BlockNode*> find_image(Graph& graph, const schema::ChangeBackingFileArguments& given) {
  BlockNode* disk = co_await unwrap(graph.lookup(given.device));
  co_await unwrap(check_is_root(*disk));
  BlockNode* image = co_await unwrap(lookup_node_name(*disk, given.image_node_name));
  if (!image->backing()) co_await Error(Errc::invalid_argument, "not allowing backing file change on an image without a backing file");
  if (!chain_contains(*disk, *image))
    co_await Error(Errc::invalid_argument, fmt::format("'{}' and image file are not in the same chain", given.device));
  co_return image;
}

Task<BlockNode*> find_disk(Graph& graph, const std::string& device) { co_return co_await unwrap(graph.lookup(device)); }

// With the format of what is below now, which may be another than the header has had.
Task<> change_name(NodeAccess& access, BlockNode& image, std::string name) {
  const bool read_only = image.read_only();
  if (read_only) co_await access.make_writable(image);
  const std::optional<std::string> given(name);
  BackingName below = co_await backing_name(image, image.backing(), given, true, &access);
  const Result<> changed = co_await image.driver().write_backing_name(std::move(below.name), std::move(below.format)).result();
  if (read_only) co_await access.make_read_only(image);
  if (!changed) co_await changed.error().with_context(fmt::format("Could not change backing file to '{}'", name));
}

}  // namespace

Task<> ChainCommandHandler::check_unused(std::vector<BlockNode*> nodes, Place& place) {
  for (const BlockNode* node : nodes) co_await jobs_.check_unused(*node, place.reactor);
}

Task<> ChainCommandHandler::check_name_free(const std::string& filter, const Place& place) {
  std::vector<std::string> names;
  if (!filter.empty()) names.push_back(filter);
  co_await homes_.check_free_elsewhere(std::move(names), place);
}

Task<> ChainCommandHandler::block_stream(schema::BlockStreamArguments arguments) {
  Place* place = co_await homes_.find(arguments.device);
  if (!place) place = &homes_.main();
  StreamPlan plan = co_await homes_.at(*place, plan_stream(place->graph, arguments));
  co_await check_unused(plan.concerned, *place);
  co_await check_name_free(plan.options.filter_node_name, *place);
  plan.options.access = &access_;
  ManagedJob* job = co_await StreamJob::create(jobs_, std::move(plan.options));
  co_await jobs_.start_at_home(*job);
}

Task<> ChainCommandHandler::block_commit(schema::BlockCommitArguments arguments) {
  Place* place = co_await homes_.find(arguments.device);
  if (!place) place = &homes_.main();
  CommitPlan plan = co_await homes_.at(*place, plan_commit(place->graph, arguments));
  co_await check_unused(plan.concerned, *place);
  co_await check_name_free(plan.options.filter_node_name, *place);
  plan.options.access = &access_;
  Task<ManagedJob*> making = plan.active ? MirrorJob::create(jobs_, active_commit(plan.options))
                                         : CommitJob::create(jobs_, std::move(plan.options));
  ManagedJob* job = co_await std::move(making);
  co_await jobs_.start_at_home(*job);
}

Task<> ChainCommandHandler::change_backing_file(schema::ChangeBackingFileArguments arguments) {
  Place* place = co_await homes_.lookup(arguments.device);
  BlockNode* image = co_await homes_.at(*place, find_image(place->graph, arguments));
  BlockNode* disk = co_await homes_.at(*place, find_disk(place->graph, arguments.device));
  std::vector<BlockNode*> concerned{image, disk};
  co_await check_unused(std::move(concerned), *place);
  co_await homes_.at(*place, change_name(access_, *image, std::move(arguments.backing_file)));
}

}  // namespace tidemark
