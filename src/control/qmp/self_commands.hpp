// The commands about the daemon itself: its version, its commands, its end.
#pragma once

#include <functional>

#include "control/qmp/commands/control.hpp"
#include "control/qmp/commands/introspect.hpp"

namespace tidemark {

class SelfCommands final : public ControlCommands, public IntrospectCommands {
 public:
  // `quit` is called once for each quit command; it must not wait for sessions.
  SelfCommands(schema::VersionInfo version, std::function<void()> quit)
      : version_(std::move(version)), quit_(std::move(quit)) {}

  Task<schema::VersionInfo> query_version() override;
  Task<std::vector<schema::CommandInfo>> query_commands() override;
  Task<> quit() override;
  Task<Json> query_qmp_schema() override;

 private:
  schema::VersionInfo version_;
  std::function<void()> quit_;
};

}  // namespace tidemark
