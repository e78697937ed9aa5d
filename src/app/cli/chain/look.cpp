#include "app/cli/chain/look.hpp"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include <fmt/format.h>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/image/session.hpp"
#include "base/paths.hpp"
#include "control/commands/chain_cost_commands.hpp"
#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

using Ask = std::function<Task<Json>(std::vector<std::string>)>;

// Names are known once the chain has been looked at.
Task<Json> ask_twice(const ChainName& chain, const std::vector<std::string>& words, Ask ask) {
  Json answer = co_await ask(std::vector<std::string>());
  std::vector<std::string> nodes;
  for (const std::string& word : words) {
    const Json::Array& layers = items(*answer.find("layers"));
    const std::size_t layer = co_await unwrap(find_layer(*answer.find("layers"), chain, word));
    nodes.push_back(text(layers[layer], "node-name"));
  }
  if (!nodes.empty()) answer = co_await ask(std::move(nodes));
  co_return std::move(answer);
}

Task<Json> ask_daemon(QmpClient& client, std::string top, std::vector<std::string> nodes) {
  Json remove = Json::array();
  for (std::string& node : nodes) remove.push_back(std::move(node));
  Json arguments = Json::object({{"node-name", std::move(top)}, {"remove", std::move(remove)}});
  Json answer = co_await client.execute("query-chain-cost", std::move(arguments));
  if (!answer.find("layers") || items(*answer.find("layers")).empty())
    co_await Error(Errc::invalid_format, "the daemon's answer to query-chain-cost tells of no layers");
  co_return std::move(answer);
}

Task<Json> ask_about_disk(QmpClient& client, const ChainName& chain, const std::vector<std::string>& words) {
  const std::string top = co_await node_of_disk(client, chain.top);
  const Ask ask = [&](std::vector<std::string> nodes) { return ask_daemon(client, top, std::move(nodes)); };
  co_return co_await ask_twice(chain, words, ask);
}

Task<Json> look_live(const Context& context, const ChainName& chain, const std::vector<std::string>& words) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_return co_await finally(ask_about_disk(client, chain, words), close);
}

// Of nodes that were opened one by one: each is told as the file that it is.
Task<Json> ask_nodes(BlockNode& top, const std::vector<ImageName>& files, std::vector<std::string> nodes) {
  schema::ChainCost cost = co_await tidemark::chain_cost(top, std::move(nodes));
  for (std::size_t i = 0; i < cost.layers.size() && i < files.size(); ++i) cost.layers[i].filename = files[i].name;
  co_return schema::to_json(cost);
}

Task<std::vector<ImageName>> files_of(Reactor& reactor, std::string name) {
  std::vector<ImageName> files;
  const auto path = local_path(name);
  if (!path) co_return std::move(files);
  ImageName top{*path, {}};
  top.format = co_await format_of(reactor, top, false);
  files = co_await chain_of(reactor, std::move(top));
  co_await unwrap(check_none_alone(files));
  co_return std::move(files);
}

Task<Json> look_at_files(const Context& context, const ChainName& chain, const std::vector<std::string>& words) {
  const std::vector<ImageName> files = co_await files_of(context.reactor, chain.top);
  std::function<Task<Json>(Session&)> body = [&](Session& session) -> Task<Json> {
    ImageName name{chain.top, {}};
    const ImageAccess access;
    Edge* top = co_await session.open(std::move(name), access);
    BlockNode& node = top->node();
    const Ask ask = [&](std::vector<std::string> nodes) { return ask_nodes(node, files, std::move(nodes)); };
    co_return co_await ask_twice(chain, words, ask);
  };
  co_return co_await in_session<Json>(context.reactor, body, context.interrupted);
}

// Steps tell of nodes: of what people call them, too.
void add_names(Json& answer, const ChainName& chain) {
  Json layers = Json::array();
  std::size_t i = 0;
  for (const Json& layer : items(*answer.find("layers"))) {
    Json named = layer;
    named.set("layer", layer_name(chain, i++));
    layers.push_back(std::move(named));
  }
  answer.set("layers", std::move(layers));
}

std::optional<std::size_t> index_in(const ChainName& chain, std::string_view word) {
  if (word.starts_with(chain.top + "[")) word.remove_prefix(chain.top.size());
  if (word.starts_with('[') && word.ends_with(']')) word = word.substr(1, word.size() - 2);
  std::size_t index = 0;
  const auto end = std::from_chars(word.data(), word.data() + word.size(), index);
  if (word.empty() || end.ec != std::errc{} || end.ptr != word.data() + word.size()) return std::nullopt;
  return index;
}

std::string short_name(const Json& layer) {
  const std::string file = text(layer, "filename");
  if (file.starts_with("json:")) return text(layer, "node-name");
  const std::string last = std::filesystem::path(file).filename();
  return last.empty() ? file : last;
}

// By its node, its file, or the last part of that.
Result<std::optional<std::size_t>> find_named(const Json::Array& layers, const std::string& word) {
  for (const char* member : {"node-name", "filename"})
    for (std::size_t i = 0; i < layers.size(); ++i)
      if (text(layers[i], member) == word) return std::optional(i);
  std::optional<std::size_t> found;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (std::filesystem::path(text(layers[i], "filename")).filename() != word) continue;
    if (found) return Error(Errc::invalid_argument, fmt::format("'{}' is the name of several layers; say which by its number", word));
    found = i;
  }
  return found;
}

}  // namespace

std::string chain_picture(const Json::Array& layers, const std::vector<std::string>& gone) {
  std::string drawn;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    if (std::find(gone.begin(), gone.end(), text(*layer, "node-name")) != gone.end()) continue;
    if (!drawn.empty()) drawn += " <- ";
    drawn += fmt::format("{} {}", text(*layer, "layer"), short_name(*layer));
  }
  return drawn;
}

// Names with ".." in them do not say where links lead: one that does not reach the file is no name for it, nor is one that does so only
// from a link to the image.
std::string name_seen_from(const std::string& file, const std::string& other) {
  namespace stdfs = std::filesystem;
  std::error_code error;
  const stdfs::path from = stdfs::path(file).parent_path();
  const stdfs::path whole = stdfs::absolute(other, error);
  if (stdfs::path(other).is_absolute() && !from.is_absolute()) return other;
  const stdfs::path name = from.is_absolute() ? whole.lexically_relative(from) : stdfs::path(other).lexically_relative(from);
  const stdfs::path real = stdfs::weakly_canonical(file, error).parent_path();          // the image may be yet to be made
  const auto reaches_from = [&](const stdfs::path& directory) { return stdfs::equivalent(directory / name, whole, error); };
  if (name.empty() || !reaches_from(from) || !reaches_from(real)) return whole.string();
  return file_not_protocol(name.string());
}

std::string layer_name(const ChainName& chain, std::size_t layer) { return fmt::format("{}[{}]", chain.live ? chain.top : "", layer); }

Result<std::size_t> find_layer(const Json& layers, const ChainName& chain, const std::string& word) {
  const Json::Array& all = items(layers);
  const auto index = index_in(chain, word);
  std::optional<std::size_t> named;
  if (!index || !word.starts_with(chain.top + "[")) {
    const auto found = find_named(all, word);
    if (!found) return found.error();
    named = *found;
  }
  if (named && index && *index != *named && *index < all.size())
    return Error(Errc::invalid_argument, fmt::format("'{0}' is the number of one layer and the name of another; say {1}[{2}] or {1}[{3}]",
                                                     word, chain.top, *index, *named));
  if (named) return *named;
  if (!index) return Error(Errc::not_found, fmt::format("the chain of '{}' has no layer '{}'", chain.top, word));
  if (*index < all.size()) return *index;
  return Error(Errc::not_found, fmt::format("the chain of '{}' has {} layers: there is no '{}'", chain.top, all.size(), word));
}

Task<Json> look_at_chain(const Context& context, const ChainName& chain, const std::vector<std::string>& layers) {
  Json answer;
  if (chain.live) answer = co_await look_live(context, chain, layers);
  else answer = co_await look_at_files(context, chain, layers);
  add_names(answer, chain);
  co_return std::move(answer);
}

}  // namespace tidemark::cli
