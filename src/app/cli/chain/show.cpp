// What a chain is made of, and what it would cost to make it shorter.
#include <fmt/format.h>

#include "app/cli/chain/look.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/text.hpp"

namespace tidemark::cli {
namespace {

std::string size_or_none(const Json& layer, const char* member) {
  return layer.find(member) ? human_size(number(layer, member)) : "-";
}

std::string table_of(const Json::Array& layers, bool live) {
  std::vector<std::string> head{"LAYER", "FORMAT", "HOLDS", "PULL", "COMMIT", "FILE"};
  if (live) head.insert(head.begin() + 1, "NODE");
  Table table(head);
  for (const Json& layer : layers) {
    std::vector<std::string> row{text(layer, "layer"),          text(layer, "driver"),          human_size(number(layer, "bytes")),
                                 size_or_none(layer, "pull"), size_or_none(layer, "commit"), text(layer, "filename")};
    if (live) row.insert(row.begin() + 1, text(layer, "node-name"));
    table.add(std::move(row));
  }
  return table.to_text();
}

std::string name_of(const Json& layers, const std::string& node) {
  const Json* layer = find_by(layers, "node-name", node);
  return layer ? text(*layer, "layer") : node;
}

std::vector<std::string> gone_in(const Json& step) {
  std::vector<std::string> nodes;
  for (const Json& node : items(*step.find("layers")))
    if (node.is_string()) nodes.push_back(node.as_string());
  return nodes;
}

void print_steps(const Json& cost) {
  const Json& layers = *cost.find("layers");
  std::vector<std::string> gone;
  std::vector<std::string> lines;
  std::size_t i = 0;
  for (const Json& step : items(*cost.find("steps"))) {
    std::string names;
    for (const std::string& node : gone_in(step)) {
      gone.push_back(node);
      names += (names.empty() ? "" : ", ") + name_of(layers, node);
    }
    lines.push_back(fmt::format("{}. {} {} into {}: {}", ++i, text(step, "action"), names, name_of(layers, text(step, "into")),
                                human_size(number(step, "bytes"))));
  }
  print_line("now   " + chain_picture(items(layers), {}));
  print_line("then  " + chain_picture(items(layers), gone));
  for (const std::string& line : lines) print_line(line);
  print_line(fmt::format("moves {} in all", human_size(number(cost, "bytes"))));
}

}  // namespace

Task<Exit> chain_show(const Context& context, ChainShowOptions options) {
  const std::vector<std::string> none;
  const Json cost = co_await look_at_chain(context, options.chain, none);
  const Json& layers = *cost.find("layers");
  if (context.json) {
    print_json(layers);
    co_return Exit::ok;
  }
  print_line(chain_picture(items(layers), {}));
  print_lines(table_of(items(layers), options.chain.live));
  co_return Exit::ok;
}

Task<Exit> chain_plan(const Context& context, ChainPlanOptions options) {
  const Json cost = co_await look_at_chain(context, options.chain, options.layers);
  if (context.json) print_json(cost);
  else print_steps(cost);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
