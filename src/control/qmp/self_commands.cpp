#include "control/qmp/self_commands.hpp"

#include "schema/description.hpp"

namespace tidemark {

Task<schema::VersionInfo> SelfCommands::query_version() { co_return version_; }

Task<std::vector<schema::CommandInfo>> SelfCommands::query_commands() {
  std::vector<schema::CommandInfo> commands;
  for (const schema::CommandDescription& command : schema::all_commands())
    commands.push_back({std::string(command.name)});
  co_return std::move(commands);
}

Task<> SelfCommands::quit() {
  quit_();
  co_return;
}

Task<Json> SelfCommands::query_qmp_schema() {
  co_return co_await unwrap(parse_json(schema::introspection()));
}

}  // namespace tidemark
