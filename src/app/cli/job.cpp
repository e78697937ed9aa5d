#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

using Verb = JobOptions::Verb;

constexpr Duration poll_interval = std::chrono::milliseconds(250);

Task<> list_jobs(const Context& context, QmpClient& client) {
  const Json jobs = co_await client.execute("query-jobs");
  if (context.json) {
    print_json(jobs);
    co_return;
  }
  Table table({"JOB", "TYPE", "STATUS", "DONE", "TOTAL", "ERROR"});
  for (const Json& job : items(jobs))
    table.add({text(job, "id"), text(job, "type"), text(job, "status"), human_size(number(job, "current-progress")),
               human_size(number(job, "total-progress")), text(job, "error")});
  print_lines(table.to_text());
}

// What a job's events tell of its end: one that is dismissed at once is in no list any more.
struct Ending {
  bool concluded = false, failed = false;
  std::string error = "its error was not told";

  void take(const Json& event, std::string_view id) {
    const std::string name = text(event, "event");
    const Json* data = event.find("data");
    if (!data || text(*data, name == "JOB_STATUS_CHANGE" ? "id" : "device") != id) return;
    const std::string status = text(*data, "status"), reason = text(*data, "error");
    if (name == "JOB_STATUS_CHANGE" && status == "aborting") failed = true;
    if (name == "JOB_STATUS_CHANGE" && status == "concluded") concluded = true;
    if (name == "BLOCK_JOB_COMPLETED" && !reason.empty()) error = reason;
    if (name == "BLOCK_JOB_CANCELLED") error = "it was cancelled";
  }
};

Task<> take_events(QmpClient& client, Ending& ending, const std::string& id) {
  while (client.has_event()) {
    const Json event = co_await client.next_event();
    ending.take(event, id);
  }
}

// `entry`: of query-jobs, or what takes its place for a job that is in no list any more.
Task<Exit> tell_end(const Context& context, const std::string& id, Json entry, std::string error) {
  if (context.json) print_json(entry);
  if (!error.empty()) co_await Error(Errc::io, fmt::format("job '{}' failed: {}", id, error));
  if (!context.json) print_line(fmt::format("job '{}' is done", id));
  co_return Exit::ok;
}

Task<Exit> tell_vanished(const Context& context, const std::string& id, const Ending& ending) {
  if (!ending.failed && !ending.concluded)
    co_await Error(Errc::not_found, fmt::format("job '{}' is gone, and whether it went well was not told", id));
  Json entry = Json::object({{"id", id}, {"status", "null"}});
  if (ending.failed) entry.set("error", ending.error);
  const std::string error = ending.failed ? ending.error : std::string();
  co_return co_await tell_end(context, id, std::move(entry), error);
}

// Whether a job waits for somebody: work that is kept up to date to be completed, one with auto-finalize=false to take effect.
// Who has told it to is not told to do so.
bool waits_after(const Json& job, Verb told) {
  const std::string status = text(job, "status");
  if (status == "ready" || status == "standby") return told == Verb::watch;
  return status == "pending" && told != Verb::finalize;
}

Task<Exit> tell_what_it_waits_for(const Context& context, const std::string& id, const Json& job) {
  const bool pending = text(job, "status") == "pending";
  const char* state = pending ? "pending" : "ready";
  if (context.json) print_json(job);
  else print_line(fmt::format("job '{}' is {}: 'tidemark job {} {}'", id, state, pending ? "finalize" : "complete", id));
  co_return Exit::ok;
}

// `told`: what the job has just been told; watch: nothing.
Task<Exit> watch_job(const Context& context, QmpClient& client, std::string id, Verb told) {
  Progress progress(context, id);
  Ending ending;
  // Who has just told it something knows that it was there, however soon it ends.
  for (bool seen = told != Verb::watch;; seen = true) {
    const Json jobs = co_await client.execute("query-jobs");
    co_await take_events(client, ending, id);
    const Json* job = find_by(jobs, "id", id);
    if (!job && !seen) co_await Error(Errc::not_found, fmt::format("there is no job '{}'; see 'tidemark job list'", id));
    if (!job || text(*job, "status") == "concluded") progress.finish();
    if (!job) co_return co_await tell_vanished(context, id, ending);
    if (text(*job, "status") == "concluded") co_return co_await tell_end(context, id, *job, text(*job, "error"));
    if (waits_after(*job, told)) {
      progress.finish();
      co_return co_await tell_what_it_waits_for(context, id, *job);
    }
    progress.update(number(*job, "current-progress"), number(*job, "total-progress"));
    (void)co_await context.reactor.sleep(poll_interval, context.interrupted).result();
    co_await unwrap(context.check_interrupted());
  }
}

Task<Exit> run(const Context& context, QmpClient& client, JobOptions options) {
  Json by_id = Json::object({{"id", options.id}});
  Json by_device = Json::object({{"device", options.id}});
  switch (options.verb) {
    case Verb::list: co_await list_jobs(context, client); break;
    case Verb::watch: co_return co_await watch_job(context, client, options.id, options.verb);
    case Verb::complete:
      co_await client.execute("job-complete", std::move(by_id));
      co_return co_await watch_job(context, client, options.id, options.verb);
    case Verb::finalize:
      co_await client.execute("job-finalize", std::move(by_id));
      co_return co_await watch_job(context, client, options.id, options.verb);
    case Verb::dismiss: co_await client.execute("job-dismiss", std::move(by_id)); break;
    case Verb::pause: co_await client.execute("job-pause", std::move(by_id)); break;
    case Verb::resume: co_await client.execute("job-resume", std::move(by_id)); break;
    case Verb::cancel:
      if (!options.force) co_await client.execute("job-cancel", std::move(by_id));
      else {
        by_device.set("force", true);
        co_await client.execute("block-job-cancel", std::move(by_device));
      }
      break;
    case Verb::set_speed:
      by_device.set("speed", options.speed);
      co_await client.execute("block-job-set-speed", std::move(by_device));
      break;
  }
  if (context.json && options.verb != Verb::list) print_json(Json::object({{"id", options.id}}));
  co_return Exit::ok;
}

Task<Exit> run_named(const Context& context, QmpClient& client, JobOptions options) {
  const std::string id = options.id;
  auto outcome = co_await run(context, client, std::move(options)).result();
  const bool named = outcome || id.empty() || outcome.error().code() == Errc::cancelled ||
                     outcome.error().message().find(id) != std::string::npos;
  if (!named)
    co_await outcome.error().with_context(fmt::format("job '{}'", id));
  co_return co_await unwrap(std::move(outcome));
}

Task<Exit> connect_and_run(const Context& context, JobOptions options) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_return co_await finally(run_named(context, client, std::move(options)), close);
}

}  // namespace

Task<Exit> job(const Context& context, JobOptions options) {
  const bool watches = options.verb == Verb::watch || options.verb == Verb::complete || options.verb == Verb::finalize;
  auto outcome = co_await connect_and_run(context, std::move(options)).result();
  const bool interrupted = !outcome && outcome.error().code() == Errc::cancelled;
  if (watches && interrupted) co_await Error(Errc::cancelled, "interrupted; jobs go on");
  co_return co_await unwrap(std::move(outcome));
}

}  // namespace tidemark::cli
