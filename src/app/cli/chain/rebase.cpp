// A layer is given another base, and reads as before: what that does not have is copied into the layer first, by a daemon's
// stream or on files; or nothing is, where the two are known to read the same.
#include <fmt/format.h>

#include "app/cli/chain/jobs.hpp"
#include "app/cli/chain/look.hpp"
#include "app/cli/chain/nodes.hpp"
#include "app/cli/chain/steps.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/text.hpp"
#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

// What a layer is to stand on.
struct Base {
  std::optional<std::size_t> layer;      // of the chain
  std::string file, format;              // empty: nothing
};

Task<Base> file_outside(Reactor& reactor, const ChainRebaseOptions& options, std::string image) {
  ImageName name{options.base, options.format};
  std::string format = co_await format_of(reactor, name, false);
  ImageName base{options.base, format};
  auto chain = co_await chain_of(reactor, std::move(base));
  co_await check_no_loop(reactor, std::move(chain), std::move(image));
  co_return Base{std::nullopt, options.base, std::move(format)};
}

// A layer by any name that it has, before a file of that name.
Task<Base> find_base(Reactor& reactor, const ChainRebaseOptions& options, const Json& layers, std::size_t layer) {
  if (options.base.empty()) co_return Base();
  const Json::Array& all = items(layers);
  auto found = find_layer(layers, options.chain, options.base);
  const bool is_file = co_await fs::exists(reactor, options.base);
  if (!found && found.error().code() != Errc::not_found) co_await found.error();
  for (std::size_t i = 0; is_file && !found && i < all.size(); ++i) {
    const bool same = co_await is_same_file(reactor, options.base, text(all[i], "filename"));
    if (same) found = i;
  }
  if (!found && is_file) co_return co_await file_outside(reactor, options, text(all[layer], "filename"));
  const std::size_t index = co_await unwrap(std::move(found));
  if (index <= layer)
    co_await Error(Errc::invalid_argument, fmt::format("{} is not below {}", layer_name(options.chain, index),
                                                       layer_name(options.chain, layer)));
  co_return Base{index, text(all[index], "filename"), text(all[index], "driver")};
}

Task<> stream(const Context& context, QmpClient& client, const ChainRebaseOptions& options, std::string node, std::string base_node) {
  DaemonJob job;
  job.command = "block-stream";
  job.arguments = Json::object({{"device", std::move(node)}});
  if (!base_node.empty()) job.arguments.set("base-node", std::move(base_node));
  if (options.speed != 0) job.arguments.set("speed", options.speed);
  const auto done = co_await run_job(context, client, std::move(job)).result();
  if (!done && done.error().code() == Errc::cancelled)
    co_await Error(Errc::cancelled, "interrupted; the disk reads as before, and the layer stands where it did");
  co_await unwrap(done);
}

// The header's; the chain that is open stays, and reads the same by who asks for this.
Task<> change_name(QmpClient& client, const Json::Array& layers, std::size_t layer, Base base) {
  const bool is_last = layer + 1 == layers.size();
  if (is_last || text(layers[layer + 1], "driver") != base.format)
    co_await Error(Errc::unsupported, fmt::format("'{}' is {}, and what the layer stands on is not: end the daemon and rebase the files",
                                                  base.file, base.format));
  Json arguments = Json::object({{"device", text(layers[0], "node-name")},
                                 {"image-node-name", text(layers[layer], "node-name")},
                                 {"backing-file", name_seen_from(text(layers[layer], "filename"), base.file)}});
  co_await client.execute("change-backing-file", std::move(arguments));
}

Task<> rebase_live(const Context& context, QmpClient& client, const ChainRebaseOptions& options, const Json::Array& layers,
                   std::size_t layer, Base base) {
  const std::string name = layer_name(options.chain, layer);
  const bool outside = !base.layer && !base.file.empty();
  if (outside && !options.unsafe)
    co_await Error(Errc::unsupported, fmt::format("'{}' is no layer below {}, and its guest would see what it holds: end the daemon and "
                                                  "rebase the files; or give --unsafe, if it reads as what is below", base.file, name));
  if (outside) co_return co_await change_name(client, layers, layer, std::move(base));
  if (options.unsafe)
    co_await Error(Errc::invalid_argument, fmt::format("what is between {} and its new base would be lost: leave --unsafe out", name));
  std::vector<Removal> pull{{false, layer + 1, layer + 1}};
  co_await check_steps(context, &client, Json(layers), std::move(pull));
  std::string base_node;
  if (base.layer) base_node = text(layers[*base.layer], "node-name");
  co_await stream(context, client, options, text(layers[layer], "node-name"), std::move(base_node));
}

Task<std::uint64_t> rebase_file(const Context& context, const ChainRebaseOptions& options, std::string file, std::string format,
                                Base base) {
  ImageRebaseOptions rebasing;
  rebasing.image = {file, std::move(format)};
  rebasing.unsafe = options.unsafe;
  if (!base.file.empty()) {
    rebasing.backing = name_seen_from(file, base.file);
    rebasing.backing_format = base.format;
  }
  co_return co_await rebase(context, std::move(rebasing));
}

void print(const Context& context, const std::string& layer, const Base& base, std::optional<std::uint64_t> written) {
  if (context.json) {
    Json told = Json::object({{"layer", layer}, {"base", base.file}});
    if (written) told.set("data-bytes", *written);
    return print_json(told);
  }
  const std::string on = base.file.empty() ? "nothing" : fmt::format("'{}'", base.file);
  print_line(fmt::format("{} stands on {} now{}", layer, on, written ? fmt::format(": {} written", human_size(*written)) : ""));
}

Task<> rebase_layer(const Context& context, QmpClient* client, ChainRebaseOptions options) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.chain, none);
  const Json& layers = *cost.find("layers");
  const Json::Array& all = items(layers);
  std::size_t layer = 0;
  if (!options.layer.empty()) layer = co_await unwrap(find_layer(layers, options.chain, options.layer));
  const Base base = co_await find_base(context.reactor, options, layers, layer);
  const bool there_already = base.layer == layer + 1 || (base.file.empty() && layer + 1 == all.size());
  std::optional<std::uint64_t> written;
  if (!client) written = co_await rebase_file(context, options, text(all[layer], "filename"), text(all[layer], "driver"), base);
  else if (!there_already) co_await rebase_live(context, *client, options, all, layer, base);
  print(context, layer_name(options.chain, layer), base, written);
}

// The old base may not be there any more.
Task<> change_name_in_file(const Context& context, ChainRebaseOptions options) {
  if (!options.layer.empty())
    co_await Error(Errc::invalid_argument, "of files only the top is rebased with --unsafe: name the layer's file as TOP");
  Base base;
  if (!options.base.empty()) base = co_await file_outside(context.reactor, options, options.chain.top);
  ImageName top{options.chain.top, {}};
  std::string format = co_await format_of(context.reactor, std::move(top), false);
  const std::uint64_t written = co_await rebase_file(context, options, options.chain.top, std::move(format), base);
  print(context, layer_name(options.chain, 0), base, written);
}

}  // namespace

Task<Exit> chain_rebase(const Context& context, ChainRebaseOptions options) {
  if (!options.chain.live) {
    if (options.speed != 0) co_await Error(Errc::invalid_argument, "--speed is for a daemon's jobs: give --qmp, too");
    if (options.unsafe) co_await change_name_in_file(context, std::move(options));
    else co_await rebase_layer(context, nullptr, std::move(options));
    co_return Exit::ok;
  }
  QmpClient client = co_await context.connect();
  client.see_through();                  // a job that was begun is cancelled in order
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(rebase_layer(context, &client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
