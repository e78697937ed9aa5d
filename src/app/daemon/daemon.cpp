#include "app/daemon/daemon.hpp"

#include "app/version.hpp"

namespace tidemark {

Daemon::Daemon(Reactor& reactor, TaskGroup& group)
    : quit_(reactor),
      graph_(reactor),
      qmp_(reactor, commands_, qmp_options()),
      job_events_(qmp_),
      jobs_(reactor, group, job_events_),
      monitors_(reactor, group, qmp_),
      self_commands_(qmp_version(version_text), [this] { quit(); }),
      node_commands_(graph_),
      bitmap_commands_(graph_),
      job_commands_(jobs_),
      backup_commands_(graph_, jobs_),
      create_commands_(graph_, jobs_),
      transaction_commands_(graph_, jobs_),
      exports_(graph_, group, qmp_) {
  commands_ = command_table({.job = job_commands_,
                             .block_job = job_commands_,
                             .bitmap = bitmap_commands_,
                             .node = node_commands_,
                             .backup = backup_commands_,
                             .control = self_commands_,
                             .create = create_commands_,
                             .export_ = exports_,
                             .info = node_commands_,
                             .introspect = self_commands_,
                             .transaction = transaction_commands_});
}

QmpOptions Daemon::qmp_options() {
  QmpOptions options;
  options.version = qmp_version(version_text);
  return options;
}

void Daemon::quit() noexcept {
  stopping_.request();
  quit_.set();
}

Task<> Daemon::start(const std::vector<DaemonStep>& steps) {
  for (const DaemonStep& step : steps) co_await carry_out(step);
}

Task<> Daemon::carry_out(const DaemonStep& step) {
  if (const auto* chardev = std::get_if<schema::ChardevOptions>(&step)) co_await unwrap(monitors_.add_chardev(*chardev));
  if (const auto* monitor = std::get_if<schema::MonitorOptions>(&step))
    co_await monitors_.add_monitor(*monitor, stopping_.token());
  if (const auto* node = std::get_if<schema::BlockdevOptions>(&step)) co_await node_commands_.blockdev_add(*node);
  if (const auto* server = std::get_if<schema::NbdServerOptions>(&step)) co_await exports_.start(*server);
  if (const auto* served = std::get_if<schema::BlockExportOptions>(&step)) co_await exports_.block_export_add(*served);
}

// Each step is taken whatever the one before it said; the first error is told.
Task<> Daemon::end() {
  stopping_.request();
  co_await monitors_.stop();
  co_await jobs_.cancel_all();
  auto served = co_await exports_.stop().result();
  auto closed = co_await graph_.close_all().result();
  if (!served) co_await served.error();
  if (!closed) co_await closed.error();
}

}  // namespace tidemark
