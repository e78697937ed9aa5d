#include "app/daemon/daemon.hpp"

#include <unistd.h>

#include <fmt/format.h>

#include "app/version.hpp"
#include "base/utf8.hpp"
#include "control/commands/housekeeping.hpp"
#include "control/graph/node_events.hpp"

namespace tidemark {
namespace {

// What is sent is also said.
template <class What>
auto said_too(Reactor& main, Notices& notices, std::function<void(const std::string& node, const What& what)> send) {
  return [&main, &notices, send = std::move(send)](const std::string& node, const What& what) {
    send(node, what);
    main.post_remote([&notices, line = fmt::format("tidemarkd: node '{}': {}", node, printable(what.message))] { notices.tell(line); });
  };
}

}  // namespace

Daemon::Daemon(Reactor& reactor, TaskGroup& group, Homes::MakeBackend make_backend)
    : notices_(STDERR_FILENO),
      quit_(reactor),
      homes_(reactor, std::move(make_backend)),
      qmp_(reactor, commands_, qmp_options()),
      job_events_(qmp_),
      jobs_(reactor, group, job_events_),
      monitors_(reactor, group, qmp_),
      command_set_(homes_, jobs_, group, qmp_, qmp_version(version_text), [this] { quit(); }),
      ending_(homes_, jobs_, command_set_, group) {
  Graph::Listeners told = send_node_events(reactor, qmp_);
  told.tracking = said_too<TrackingReport>(reactor, notices_, std::move(told.tracking));
  told.corruption = said_too<ImageCorruption>(reactor, notices_, std::move(told.corruption));
  homes_.main().graph.listeners() = std::move(told);
  commands_ = command_set_.table();
  qmp_.command_lock().at_end([this] { return homes_.unpin(); });
  group.spawn(keep_house(homes_, qmp_.command_lock(), stopping_.token()));
  group.spawn(lose_patience());
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

Task<> Daemon::start(const DaemonOptions& options) {
  // Clients of the monitors and of the NBD server that are there already wait until all is there.
  const Mutex::Guard turn = co_await qmp_.command_lock().enter();
  auto done = co_await carry_out_all(options).result();
  co_await qmp_.command_lock().end();
  command_set_.exports.serve();
  co_await unwrap(std::move(done));
}

Task<> Daemon::carry_out_all(const DaemonOptions& options) {
  for (const DaemonStep& step : options.steps) {
    auto done = co_await carry_out(step.action).result();
    if (!done && stopping_.requested() && done.error().code() == Errc::cancelled) co_return;
    if (!done && !options.announce) co_await done.error().with_context(step.option);
    co_await unwrap(std::move(done));
  }
}

Task<> Daemon::carry_out(const DaemonAction& action) {
  if (const auto* chardev = std::get_if<schema::ChardevOptions>(&action)) co_await monitors_.add_chardev(*chardev, stopping_.token());
  if (const auto* monitor = std::get_if<schema::MonitorOptions>(&action))
    co_await unwrap(monitors_.add_monitor(*monitor, stopping_.token()));
  if (const auto* node = std::get_if<schema::BlockdevOptions>(&action)) co_await command_set_.nodes.blockdev_add(*node);
  if (const auto* server = std::get_if<schema::NbdServerOptions>(&action)) co_await command_set_.exports.start(*server);
  if (const auto* object = std::get_if<schema::ObjectOptions>(&action)) co_await command_set_.objects.object_add(*object);
  if (const auto* served = std::get_if<schema::BlockExportOptions>(&action)) co_await command_set_.exports.block_export_add(*served);
}

Task<> Daemon::end(Duration patience) {
  quit();
  co_await monitors_.stop();
  auto ended = co_await ending_.run(qmp_.command_lock(), patience).result();
  co_await hear_all();
  qmp_.end();
  ended_.request();
  co_await unwrap(std::move(ended));
}

// What nodes have told until now has come to this thread.
Task<> Daemon::hear_all() {
  Reactor& main = homes_.main().reactor;
  Event heard(main);
  main.post_remote([&heard] { heard.set(); });
  co_await heard.wait();
}

// Once it is told to end, which it may be while it starts, requests that a peer has not answered after a while end without it, again
// and again, for ending makes new ones.
Task<> Daemon::lose_patience() {
  (void)co_await quit_.wait(ended_.token()).result();
  for (Duration patience = std::chrono::seconds(3);; patience = std::chrono::seconds(1)) {
    const Result<> waited = co_await homes_.main().reactor.sleep(patience, ended_.token()).result();
    if (!waited) co_return;
    for (Place* place : homes_.all()) co_await homes_.at(*place, place->graph.cancel_all_in_flight());
  }
}

}  // namespace tidemark
