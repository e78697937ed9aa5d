// What the schema says of its commands as a whole: for query-commands, query-qmp-schema, the
// command line's help and completion.  The tables are generated.
#pragma once

#include <span>
#include <string_view>

#include "schema/input.hpp"

namespace tidemark::schema {

struct CommandDescription {
  std::string_view name;
  std::string_view summary;  // one sentence
  bool deprecated = false;
  bool unstable = false;
  // Checks arguments and writes them as JSON has them: the way from a command line to another
  // server.
  Result<Json> (*normalise)(const Json& arguments, Spelling spelling) = nullptr;
};

std::span<const CommandDescription> all_commands() noexcept;  // in the manual's order
const CommandDescription* find_command(std::string_view name) noexcept;

// What query-qmp-schema returns, as JSON text.
std::string_view introspection() noexcept;

}  // namespace tidemark::schema
