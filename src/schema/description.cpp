#include "schema/description.hpp"

namespace tidemark::schema {

const CommandDescription* find_command(std::string_view name) noexcept {
  for (const CommandDescription& command : all_commands())
    if (command.name == name) return &command;
  return nullptr;
}

}  // namespace tidemark::schema
