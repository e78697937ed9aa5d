// A disk is copied: a daemon's by a mirror, files by converting.

#include <fmt/format.h>

#include "app/cli/chain/live_copy.hpp"
#include "app/cli/chain/look.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/text.hpp"
#include "base/paths.hpp"
#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

std::string joined(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += fmt::format("{}'{}'", all.empty() ? "" : ", ", name);
  return all;
}

Json strings(const std::vector<std::string>& words) {
  Json list = Json::array();
  for (const std::string& word : words) list.push_back(word);
  return list;
}

void print_live(const Context& context, const ChainCopyOptions& options, const LiveCopy::Report& report, double seconds) {
  if (context.json) {
    Json told = Json::object({{"disk", options.chain.top}, {"target", options.target}, {"virtual-size", report.size},
                              {"pivoted", options.pivot}, {"seconds", seconds}});
    if (!report.node.empty()) told.set("node-name", report.node);
    if (!report.job.empty()) told.set("job", report.job);
    if (!report.left.empty()) told.set("left", report.left);
    if (!report.bitmaps.empty()) told.set("bitmaps-left", strings(report.bitmaps));
    return print_json(told);
  }
  const std::string& disk = options.chain.top;
  print_line(fmt::format("disk '{}' copied to '{}': {} in {}", disk, options.target, human_size(report.size), human_duration(seconds)));
  if (options.pivot) print_line(fmt::format("it is '{}' now, node '{}'", options.target, report.node));
  if (options.stay)
    print_line(fmt::format("job '{0}' keeps node '{1}' equal: 'tidemark job complete {0}' goes over to it, "
                           "'tidemark qmp block-job-cancel device={0}' lets go of it", report.job, report.node));
  if (!report.bitmaps.empty()) print_line(fmt::format("bitmaps that stayed with what it was before: {}", joined(report.bitmaps)));
  if (!report.left.empty()) print_line(fmt::format("node '{}', which it was before, is still there", report.left));
}

Task<> copy_live(const Context& context, QmpClient& client, ChainCopyOptions options) {
  const Instant started = context.reactor.now();
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.chain, none);
  LiveCopy copy(context, client, options, *cost.find("layers"));
  const LiveCopy::Report report = co_await copy.run();
  print_live(context, options, report, std::chrono::duration<double>(context.reactor.now() - started).count());
}

Task<ImageConvertOptions> to_convert(const Context& context, const ChainCopyOptions& options) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.chain, none);
  const Json::Array& layers = items(*cost.find("layers"));
  ImageConvertOptions convert;
  convert.sources = {options.chain.top};
  convert.target = options.target;
  convert.target_exists = options.reuse;
  convert.speed = options.speed;
  convert.target_format = options.format;
  const auto path = local_path(options.target);
  if (options.format.empty() && options.reuse) {
    ImageName target{options.target, {}};
    convert.target_format = co_await format_of(context.reactor, std::move(target), false);
  }
  if (options.format.empty() && !options.reuse && path) convert.target_format = text(layers[0], "driver");
  if (options.format.empty() && !path) convert.target_format = "raw";
  if (!options.shallow) co_return std::move(convert);
  if (layers.size() < 2)
    co_await Error(Errc::invalid_argument, fmt::format("nothing is below '{}': leave --shallow out", options.chain.top));
  if (!path || options.reuse || convert.target_format != "qcow2")
    co_await Error(Errc::invalid_argument, "a copy that is shallow stands on what the disk stands on: its target is a new qcow2 file");
  convert.backing = name_seen_from(*path, text(layers[1], "filename"));
  convert.backing_format = text(layers[1], "driver");
  co_return std::move(convert);
}

Task<> copy_files(const Context& context, ChainCopyOptions options) {
  const Instant started = context.reactor.now();
  if (options.pivot || options.stay) co_await Error(Errc::invalid_argument, "--pivot and --stay are for a daemon's disk: give --qmp, too");
  if (const auto path = local_path(options.target); path && !options.reuse) {
    const bool there = co_await fs::exists(context.reactor, *path);
    if (there) co_await Error(Errc::exists, fmt::format("'{}' exists; copy into it with --reuse, or choose another name", options.target));
  }
  ImageConvertOptions converting = co_await to_convert(context, options);
  const ImageConverted done = co_await convert(context, std::move(converting));
  const double seconds = std::chrono::duration<double>(context.reactor.now() - started).count();
  if (context.json)
    print_json(Json::object({{"disk", options.chain.top}, {"target", options.target}, {"virtual-size", done.size},
                             {"data-bytes", done.data_bytes}, {"pivoted", false}, {"seconds", seconds}}));
  else
    print_line(fmt::format("disk '{}' copied to '{}': {}, {} of it data, in {}", options.chain.top, options.target,
                           human_size(done.size), human_size(done.data_bytes), human_duration(seconds)));
}

}  // namespace

Task<Exit> chain_copy(const Context& context, ChainCopyOptions options) {
  if (!options.chain.live) {
    co_await copy_files(context, std::move(options));
    co_return Exit::ok;
  }
  if (const auto path = local_path(options.target)) options.target = absolute_path(*path);
  QmpClient client = co_await context.connect();
  client.see_through();                  // a mirror that was begun is ended in order
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(copy_live(context, client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
