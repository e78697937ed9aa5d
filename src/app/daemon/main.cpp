// tidemarkd: the daemon.  Parses, goes to the background when asked to, and runs a Daemon until it is told to end.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>

#include <fmt/format.h>

#include "app/daemon/background.hpp"
#include "app/daemon/daemon.hpp"
#include "app/daemon/pidfile.hpp"
#include "app/runtime.hpp"
#include "app/version.hpp"
#include "io/posix/signals.hpp"
#include "io/reactor_thread.hpp"

namespace tidemark {
namespace {

constexpr std::initializer_list<int> ending{SIGINT, SIGTERM, SIGHUP};

enum ExitStatus : int { done = 0, failed = 1, wrong_usage = 2 };      // tidemark's, too

int fail(const Error& error, bool json, ExitStatus status = failed) {
  complain("tidemarkd", error, json);
  return status;
}

void announce(const std::vector<std::string>& uris, bool json) {
  Json list = Json::array();
  for (const std::string& uri : uris) {
    list.push_back(uri);
    if (!json) std::puts(uri.c_str());
  }
  if (json) std::puts(to_text(Json::object({{"uris", std::move(list)}})).c_str());
}

// The first signal ends the daemon in order; one a second or more after it at once.  Service managers send two at a time
// (systemd.kill(5), SendSIGHUP=).
Task<> watch_signals(Reactor& reactor, SignalWatch& signals, Daemon& daemon, CancelToken done) {
  constexpr Duration together = std::chrono::seconds(1);
  std::optional<Instant> first;
  for (;;) {
    auto number = co_await signals.next(done).result();
    if (!number) co_return;
    if (first && reactor.now() - *first >= together) std::_Exit(128 + *number);
    if (!first) first = reactor.now();
    daemon.quit();
  }
}

// Something hangs that all of the program stands on.
[[noreturn]] void give_up(const Error& error, const DaemonOptions& options, Pidfile& pidfile) {
  pidfile = Pidfile();
  std::_Exit(fail(error, options.json));
}

Result<> printed() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {};
  return Error::from_errno(errno, "write to standard output");
}

Task<> start_and_wait(Daemon& daemon, const DaemonOptions& options, Pidfile& pidfile, Background& background) {
  co_await daemon.start(options);
  if (daemon.quits()) co_return;
  co_await unwrap(pidfile.write_pid());
  if (options.announce) {
    announce(daemon.uris(), options.json);
    co_await unwrap(printed());
  }
  background.ready();
  co_await daemon.wait_for_quit();
}

Task<> run(Reactor& reactor, SignalWatch& signals, const DaemonOptions& options, Pidfile& pidfile, Background& background) {
  const auto one_more = [&options](const ThreadOptions& how) { return make_backend(options.aio, how); };
  auto body = [&](TaskGroup& group) -> Task<> {
    Daemon daemon(reactor, group, one_more);
    auto watched = [&](TaskGroup& watchers) -> Task<> {
      watchers.spawn(watch_signals(reactor, signals, daemon, watchers.token()));
      auto served = co_await start_and_wait(daemon, options, pidfile, background).result();
      auto ended = co_await daemon.end(std::chrono::seconds(options.end_patience)).result();
      if (daemon.hangs()) give_up(ended.error(), options, pidfile);
      if (!served) co_await served.error();
      if (!ended) co_await ended.error();
    };
    auto outcome = co_await with_group(reactor, watched).result();
    co_await group.join();
    if (!outcome) co_await outcome.error();
  };
  co_await with_group(reactor, body);
}

int run_daemon(const DaemonOptions& options) {
  ::signal(SIGPIPE, SIG_IGN);            // who waits for it, or reads what it says, may have gone
  Background background;
  if (options.daemonize) {
    auto entered = Background::enter();
    if (!entered) return fail(entered.error(), options.json);
    background = *std::move(entered);
  }
  Pidfile pidfile;
  if (!options.pidfile.empty()) {
    auto created = Pidfile::create(options.pidfile);
    if (!created) return fail(created.error(), options.json);
    pidfile = *std::move(created);
  }
  auto backend = make_backend(options.aio);
  if (!backend) return fail(backend.error(), options.json);
  Reactor reactor(**backend);
  auto signals = SignalWatch::create(reactor, ending);
  if (!signals) return fail(signals.error(), options.json);
  wake_promptly();
  auto outcome = reactor.run(run(reactor, *signals, options, pidfile, background));
  if (outcome)                           // it is over: who is told so by its monitor's end, and makes sure, changes nothing
    for (const int number : ending) ::signal(number, SIG_IGN);
  (void)reactor.run(signals->close());
  return outcome ? done : fail(outcome.error(), options.json);
}

int main(int argc, char** argv) {
  auto options = parse_daemon_options(argc, argv);
  const bool json = std::find(argv, argv + argc, std::string_view("--announce=json")) != argv + argc;
  if (!options) return fail(options.error(), json, wrong_usage);
  if (options->show_help) std::fputs(daemon_help, stdout);
  else if (options->show_version) std::printf("tidemarkd %s\n", version_text);
  else return run_daemon(*options);
  const auto told = printed();
  return told ? done : fail(told.error(), options->json);
}

}  // namespace
}  // namespace tidemark

int main(int argc, char** argv) {
  tidemark::open_standard_streams();
  tidemark::allow_many_files();
  return tidemark::main(argc, argv);
}
