#include "control/graph/node_names.hpp"

namespace tidemark {
namespace {

void collect(const schema::BlockdevOptions& options, NodeNames& names);

void collect(const schema::BlockdevRef& reference, NodeNames& names) {
  if (const auto* name = std::get_if<std::string>(&reference.value)) names.used.push_back(*name);
  else collect(*std::get<schema::Box<schema::BlockdevOptions>>(reference.value), names);
}

void collect(const schema::BlockdevRefOrNull& reference, NodeNames& names) {
  if (const auto* name = std::get_if<std::string>(&reference.value)) names.used.push_back(*name);
  if (const auto* inlined = std::get_if<schema::Box<schema::BlockdevOptions>>(&reference.value)) collect(**inlined, names);
}

// All formats and filters have a `file`; what else some of them refer to is looked for beside it.
struct Collector {
  NodeNames& names;

  template <class Options>
  void operator()(const Options& options) const {
    if constexpr (requires { options.file; }) collect(options.file, names);
    if constexpr (requires { options.image; }) collect(options.image, names);
    if constexpr (requires { options.backing; })
      if (options.backing) collect(*options.backing, names);
    if constexpr (requires { options.data_file; })
      if (options.data_file) collect(*options.data_file, names);
    if constexpr (requires { options.target; }) collect(options.target, names);
    if constexpr (requires { options.bottom; })
      if (options.bottom) names.used.push_back(*options.bottom);
    if constexpr (requires { options.bitmap->node; })
      if (options.bitmap) names.used.push_back(options.bitmap->node);
  }
};

void collect(const schema::BlockdevOptions& options, NodeNames& names) {
  if (options.node_name) names.made.push_back(*options.node_name);
  std::visit(Collector{names}, options.branch);
}

}  // namespace

NodeNames names_in(const schema::BlockdevOptions& options) {
  NodeNames names;
  collect(options, names);
  return names;
}

NodeNames names_in(const schema::BlockdevRef& reference) {
  NodeNames names;
  collect(reference, names);
  return names;
}

}  // namespace tidemark
