#include "app/cli/chain/steps.hpp"

#include <fmt/format.h>

#include "app/cli/chain/jobs.hpp"
#include "app/cli/chain/look.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/snapshots.hpp"

namespace tidemark::cli {
namespace {

std::string node_of(const Json& layers, std::size_t layer) { return text(items(layers)[layer], "node-name"); }
std::string file_of(const Json& layers, std::size_t layer) { return text(items(layers)[layer], "filename"); }
std::string format_of(const Json& layers, std::size_t layer) { return text(items(layers)[layer], "driver"); }

// Filters above the disk are not concerned, and stay.
Json job_arguments(const Json& layers, Removal step, std::uint64_t speed) {
  Json arguments = Json::object();
  if (speed != 0) arguments.set("speed", speed);
  if (step.commit) {
    arguments.set("device", node_of(layers, 0));
    arguments.set("top-node", node_of(layers, step.first));
    arguments.set("base-node", node_of(layers, step.into()));
    if (step.preserve_removed != "off") arguments.set("preserve-removed", step.preserve_removed);
    else if (step.first == 0) arguments.set("empty-active", true);      // who takes it for the disk later sees what is below
    return arguments;
  }
  arguments.set("device", node_of(layers, step.into()));
  if (step.last + 1 < items(layers).size()) arguments.set("base-node", node_of(layers, step.last + 1));
  return arguments;
}

Task<> set_backing(const Context& context, const Json& layers, std::size_t image, std::optional<std::size_t> below, bool unsafe) {
  ImageRebaseOptions rebasing;
  rebasing.image = {file_of(layers, image), "qcow2"};
  rebasing.unsafe = unsafe;
  if (below) {
    rebasing.backing = name_seen_from(file_of(layers, image), file_of(layers, *below));
    rebasing.backing_format = format_of(layers, *below);
  }
  (void)co_await rebase(context, std::move(rebasing));
}

Task<> check_named_by_file(const Json& layers) {
  for (const Json& layer : items(layers))
    if (text(layer, "filename").starts_with("json:"))
      co_await Error(Errc::unsupported, fmt::format("'{}' is not named by a file alone", text(layer, "filename")));
}

Result<> check_node_keeps_none(const Json& nodes, const Json& layer) {
  const Json* node = find_by(nodes, "node-name", text(layer, "node-name"));
  const Json* image = node ? node->find("image") : nullptr;
  const Json* kept = image ? image->find("snapshots") : nullptr;
  if (!kept || items(*kept).empty()) return {};
  return would_change(text(layer, "filename"), text(items(*kept).front(), "name"));
}

// Those that would read something else below them, or are no part of the disk then and what is below them is written to.
std::vector<std::size_t> changed_below(Removal step) {
  std::vector<std::size_t> changed;
  if (!step.commit) changed.push_back(step.into());
  for (std::size_t layer = step.first; step.commit && layer <= step.last; ++layer) changed.push_back(layer);
  return changed;
}

// What is committed to grows when it is shorter, and stays as it is when it is longer.
Result<> check_sizes(const Json& layers, const std::vector<Removal>& steps) {
  for (const Removal& step : steps) {
    if (!step.commit || step.first != 0 || !would_grow(layers, step.into())) continue;
    const auto& disk = items(layers).front();
    const auto& base = items(layers)[step.into()];
    const std::string names = step.into() == 1 ? text(base, "layer") : text(items(layers)[1], "layer") + " to " + text(base, "layer");
    return Error(Errc::unsupported, fmt::format("the disk has {} bytes, and {}, which it would be then, has {}; to keep its size pull {} "
                                                "into it: tidemark chain pull", number(disk, "virtual-size"), text(base, "layer"),
                                                number(base, "virtual-size"), names));
  }
  return {};
}

Task<> remove_live(const Context& context, QmpClient& client, const Json& layers, Removal step, std::uint64_t speed) {
  DaemonJob job;
  job.command = step.commit ? "block-commit" : "block-stream";
  job.arguments = job_arguments(layers, step, speed);
  const auto done = co_await run_job(context, client, std::move(job)).result();
  if (!done && done.error().code() == Errc::cancelled) co_await Error(Errc::cancelled, "interrupted; the steps that were done stay done");
  co_await unwrap(done);
}

// What is committed is durable before the image above names the one below.  A top that was committed shows what is below it from
// then on: who takes it for the disk by mistake later does not see an old one.
Task<> remove_offline(const Context& context, const Json& layers, Removal step) {
  if (!step.commit) {
    std::optional<std::size_t> below;
    if (step.last + 1 < items(layers).size()) below = step.last + 1;
    co_return co_await set_backing(context, layers, step.into(), below, false);
  }
  ImageCommitOptions committing;
  committing.image = {file_of(layers, step.first), format_of(layers, step.first)};
  committing.base = file_of(layers, step.into());
  committing.keep = true;
  if (step.first != 0) committing.above = file_of(layers, step.first - 1);
  else committing.stands_on = ImageName{name_seen_from(file_of(layers, 0), committing.base), format_of(layers, step.into())};
  (void)co_await commit(context, std::move(committing));
  if (step.first != 0) co_await set_backing(context, layers, step.first - 1, step.into(), true);
}

}  // namespace

bool would_grow(const Json& layers, std::size_t into) {
  return number(items(layers)[into], "virtual-size") > number(items(layers).front(), "virtual-size");
}

Task<> check_steps(const Context& context, QmpClient* client, const Json& layers, std::vector<Removal> steps) {
  co_await unwrap(check_sizes(layers, steps));
  Json nodes;
  if (client) nodes = co_await all_nodes(*client);
  else co_await check_named_by_file(layers);
  for (const Removal& step : steps) {
    for (const std::size_t layer : changed_below(step)) {
      ImageName image{file_of(layers, layer), format_of(layers, layer)};
      if (client) co_await unwrap(check_node_keeps_none(nodes, items(layers)[layer]));
      else co_await check_keeps_none(context.reactor, std::move(image));
    }
  }
}

Task<LeftNode> carry_out(const Context& context, QmpClient* client, const Json& layers, Removal step, std::uint64_t speed) {
  LeftNode left;
  if (!client) co_await remove_offline(context, layers, step);
  else {
    co_await remove_live(context, *client, layers, step, speed);
    if (step.commit && step.first == 0) left = co_await let_go_of(*client, node_of(layers, 0), node_of(layers, step.into()));
  }
  co_return left;
}

}  // namespace tidemark::cli
