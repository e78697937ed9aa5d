#include "control/jobs/chain_actions.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "block/status.hpp"
#include "control/graph/chain_lookup.hpp"
#include "control/graph/size_change.hpp"
#include "control/jobs/job_policy.hpp"
#include "format/qcow2/driver.hpp"

namespace tidemark {
namespace {

Error refused(std::string why) { return Error(Errc::invalid_argument, std::move(why)); }

// The two commands have these alike.
template <class Arguments>
Result<JobOptions> job_options(const Arguments& given) {
  if (given.speed < 0) return refused("Parameter 'speed' expects a non-negative value");
  JobOptions job;
  job.id = given.job_id.value_or("");
  job.auto_finalize = given.auto_finalize;
  job.auto_dismiss = given.auto_dismiss;
  job.speed = static_cast<std::uint64_t>(given.speed);
  return job;
}

Task<BlockNode*> find_stream_base(BlockNode& disk, const schema::BlockStreamArguments& given) {
  if (given.base) {
    BlockNode* base = co_await find_backing_file(disk, *given.base);
    if (!base) co_await refused(fmt::format("Can't find '{}' in the backing chain", *given.base));
    co_return base;
  }
  if (!given.base_node) co_return nullptr;
  BlockNode* base = co_await unwrap(lookup_node_name(disk, *given.base_node));
  if (base == &disk || !chain_contains(disk, *base))
    co_await refused(fmt::format("Node '{}' is not a backing image of '{}'", *given.base_node, given.device));
  co_return base;
}

Result<BlockNode*> find_bottom(BlockNode& disk, const std::string& name, const std::string& device) {
  auto bottom = lookup_node_name(disk, name);
  if (!bottom) return bottom;
  if ((*bottom)->driver().is_filter()) return refused(fmt::format("Node '{}' is a filter, use a non-filter node as 'bottom'", name));
  if (!chain_contains(disk, **bottom)) return refused(fmt::format("Node '{}' is not in a chain starting from '{}'", name, device));
  return bottom;
}

Result<> check_stream_arguments(const schema::BlockStreamArguments& given) {
  const auto both = [](const char* one, const char* other) {
    return refused(fmt::format("'{}' and '{}' cannot be specified at the same time", one, other));
  };
  if (given.base && given.base_node) return both("base", "base-node");
  if (given.base && given.bottom) return both("base", "bottom");
  if (given.bottom && given.base_node) return both("bottom", "base-node");
  return {};
}

Task<BlockNode*> find_top(BlockNode& disk, const schema::BlockCommitArguments& given) {
  if (given.top_node && given.top) co_await refused("'top-node' and 'top' are mutually exclusive");
  if (given.top_node) {
    BlockNode* top = co_await unwrap(lookup_node_name(disk, *given.top_node));
    if (!chain_contains(disk, *top)) co_await refused(fmt::format("'{}' is not in this backing file chain", *given.top_node));
    co_return top;
  }
  if (!given.top) co_return &disk;
  const ImageInfo info = co_await disk.driver().info();
  if (info.filename == *given.top) co_return &disk;
  BlockNode* top = co_await find_backing_file(disk, *given.top);
  if (!top) co_await refused(fmt::format("Top image file {} not found", *given.top));
  co_return top;
}

Task<BlockNode*> find_commit_base(BlockNode& top, const schema::BlockCommitArguments& given) {
  if (given.base_node && given.base) co_await refused("'base-node' and 'base' are mutually exclusive");
  if (given.base_node) {
    BlockNode* base = co_await unwrap(lookup_node_name(top, *given.base_node));
    if (!chain_contains(top, *base)) co_await refused(fmt::format("'{}' is not in this backing file chain", *given.base_node));
    co_return base;
  }
  if (!given.base) co_return &last_in_chain(top);
  BlockNode* base = co_await find_backing_file(top, *given.base);
  if (!base) co_await refused(fmt::format("Can't find '{}' in the backing chain", *given.base));
  co_return base;
}

// The job writes to the base, and guests who go over to it do: other images on it, or on what is between, would change.
Result<> check_alone(BlockNode& top, BlockNode& base) {
  const BlockNode* above = &top;
  for (BlockNode* at = next_in_chain(top); at; at = at == &base ? nullptr : next_in_chain(*at)) {
    for (const BlockNode* overlay : overlays_on(*at))
      if (overlay != above && !chain_contains(top, *overlay))
        return Error(Errc::busy, fmt::format("Node '{}' is busy: '{}' stands on it, too, and would change with it", at->name(),
                                             overlay->name()));
    above = at;
  }
  return {};
}

Preserve to_preserve(schema::BlockCommitPreserve given) noexcept {
  switch (given) {
    case schema::BlockCommitPreserve::off: return Preserve::off;
    case schema::BlockCommitPreserve::on: return Preserve::on;
    case schema::BlockCommitPreserve::full: return Preserve::full;
  }
  return Preserve::off;
}

// Only what such an image holds now is pulled into it.
Result<> check_can_be_preserved(const BlockNode& image) {
  if (image.driver().name() != "qcow2" || static_cast<const Qcow2Driver&>(image.driver()).snapshots().empty()) return {};
  return refused(fmt::format("Node '{}' has internal snapshots, which cannot be preserved: delete them, or commit without "
                             "'preserve-removed'", image.name()));
}

Result<> check_preserve(const schema::BlockCommitArguments& given, bool active) {
  using Wanted = schema::BlockCommitPreserve;
  if (given.preserve_removed == Wanted::on && active)
    return refused("'preserve-removed=on' specified, but guests write to 'top' and will write to the base: use 'full'");
  if (given.preserve_removed != Wanted::off && given.keep_active)
    return refused("'preserve-removed' specified, but 'keep-active' writes to the base for as long as guests use 'top'");
  if (given.preserve_removed != Wanted::off && given.empty_active)
    return refused("'preserve-removed' specified, but 'empty-active' has 'top' give up what it holds");
  return {};
}

bool has_writer(const BlockNode& node) {
  for (const Edge* user : node.parents())
    if (user->permissions().uses & Permissions::write) return true;
  return false;
}

}  // namespace

Task<StreamPlan> plan_stream(Graph& graph, const schema::BlockStreamArguments& given) {
  co_await unwrap(check_stream_arguments(given));
  StreamPlan plan;
  BlockNode* disk = co_await unwrap(graph.lookup(given.device));
  BlockNode* base = co_await find_stream_base(*disk, given);
  BlockNode* bottom = nullptr;
  if (given.bottom) bottom = co_await unwrap(find_bottom(*disk, *given.bottom, given.device));
  if (!base && given.backing_file) co_await refused("backing file specified, but streaming the entire chain");
  if (!bottom) bottom = overlay_of(*disk, base);
  if (!bottom) co_await refused(fmt::format("'{}' is not in the backing chain of '{}'", base->name(), given.device));
  plan.options.disk = disk;
  plan.options.bottom = bottom;
  for (BlockNode* at = disk; at; at = at == bottom ? nullptr : next_in_chain(*at)) plan.concerned.push_back(at);
  plan.options.job = co_await unwrap(job_options(given));
  plan.options.backing_file = given.backing_file;
  plan.options.mask_protocol = given.backing_mask_protocol;
  plan.options.on_error = to_policy(given.on_error);
  plan.options.filter_node_name = given.filter_node_name.value_or("");
  co_return std::move(plan);
}

Task<CommitPlan> plan_commit(Graph& graph, const schema::BlockCommitArguments& given) {
  CommitPlan plan;
  BlockNode* disk = graph.pin(given.device);
  if (!disk) co_await Error(Errc::device_not_found, fmt::format("Device '{}' not found", given.device));
  co_await unwrap(check_is_root(*disk));
  BlockNode* top = co_await find_top(*disk, given);
  BlockNode* base = co_await find_commit_base(*top, given);
  if (top == base) co_await refused("cannot commit an image into itself");
  const bool topmost = &skip_filters(*top) == &skip_filters(*disk);
  plan.active = topmost || has_writer(*top);
  if (given.keep_active && !plan.active) co_await refused("'keep-active' specified, but nobody writes to 'top'");
  if (given.empty_active && (!plan.active || given.keep_active))
    co_await refused("'empty-active' specified, but nobody goes over from 'top' to the base");
  if ((given.keep_active || given.empty_active) && top->read_only())
    co_await refused(fmt::format("Block node '{}' is read-only", top->name()));
  if (plan.active && given.backing_file && !given.keep_active) {
    const char* const why = topmost ? "is the active layer" : "has a writer on it";
    co_await refused(fmt::format("'backing-file' specified, but 'top' {}", why));
  }
  if (plan.active && base->size() > top->size()) co_await unwrap(check_no_bitmaps_above(*top));
  co_await unwrap(check_preserve(given, plan.active));
  if (given.preserve_removed == schema::BlockCommitPreserve::off) co_await unwrap(check_alone(*top, *base));
  plan.concerned = overlays_on(*top);
  plan.concerned.insert(plan.concerned.begin(), disk);
  if (plan.active && plan.concerned.size() != 1)
    co_await Error(Errc::unsupported, fmt::format("Node '{}' has a writer on it, and there are images that stand on it", top->name()));
  for (BlockNode* at = top; at; at = at == base ? nullptr : next_in_chain(*at)) plan.concerned.push_back(at);
  plan.options.preserve = to_preserve(given.preserve_removed);
  if (plan.options.preserve != Preserve::off) {
    for (BlockNode* image : overlays_on(skip_filters(*base))) {
      co_await unwrap(check_can_be_preserved(*image));
      plan.concerned.push_back(image);
    }
  }
  plan.options.disk = disk;
  plan.options.top = top;
  plan.options.base = base;
  plan.options.job = co_await unwrap(job_options(given));
  plan.options.backing_file = given.backing_file;
  plan.options.mask_protocol = given.backing_mask_protocol;
  plan.options.on_error = to_policy(given.on_error);
  plan.options.filter_node_name = given.filter_node_name.value_or("");
  plan.options.keep_active = given.keep_active;
  plan.options.empty_active = given.empty_active;
  co_return std::move(plan);
}

MirrorOptions active_commit(const CommitOptions& options) {
  MirrorOptions mirror;
  mirror.job = options.job;
  mirror.source = options.top;
  mirror.target = options.base;
  mirror.sync = SyncMode::top;
  mirror.on_source_error = mirror.on_target_error = options.on_error;
  mirror.filter_node_name = options.filter_node_name;
  mirror.access = options.access;
  mirror.commit = ActiveCommitOptions{options.access, options.keep_active, options.backing_file, options.mask_protocol,
                                      options.empty_active, options.preserve == Preserve::full};
  return mirror;
}

}  // namespace tidemark
