#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration poll_interval = std::chrono::milliseconds(250);

std::uint64_t number(const Json& object, std::string_view key) {
  std::uint64_t n = 0;
  if (const Json* value = object.find(key)) (void)value->to_uint64(n);
  return n;
}

std::string text(const Json& object, std::string_view key) {
  const Json* value = object.find(key);
  return value && value->is_string() ? value->as_string() : std::string();
}

const Json* find_job(const Json& jobs, const std::string& id) {
  for (const Json& job : jobs.as_array())
    if (text(job, "id") == id) return &job;
  return nullptr;
}

Task<> list_jobs(const Context& context, QmpClient& client) {
  const Json jobs = co_await client.execute("query-jobs");
  if (context.json) {
    print_json(jobs);
    co_return;
  }
  Table table({"JOB", "TYPE", "STATUS", "DONE", "TOTAL", "ERROR"});
  for (const Json& job : jobs.as_array())
    table.add({text(job, "id"), text(job, "type"), text(job, "status"), human_size(number(job, "current-progress")),
               human_size(number(job, "total-progress")), text(job, "error")});
  print_line(table.to_text());
}

// Until the job has ended; a job that vanishes was dismissed.
Task<Exit> watch_job(const Context& context, QmpClient& client, std::string id) {
  Progress progress(context, id);
  for (bool seen = false;; seen = true) {
    co_await unwrap(context.check_interrupted());
    const Json jobs = co_await client.execute("query-jobs");
    const Json* job = find_job(jobs, id);
    if (!job && !seen) co_await Error(Errc::not_found, fmt::format("there is no job '{}'; see 'tidemark job list'", id));
    if (!job) co_return Exit::ok;
    progress.update(number(*job, "current-progress"), number(*job, "total-progress"));
    if (text(*job, "status") == "concluded") {
      progress.finish();
      if (context.json) print_json(*job);
      const std::string error = text(*job, "error");
      if (!error.empty()) co_await Error(Errc::io, fmt::format("job '{}' failed: {}", id, error));
      co_return Exit::ok;
    }
    co_await context.reactor.sleep(poll_interval, context.interrupted);
  }
}

Task<Exit> run(const Context& context, QmpClient& client, JobOptions options) {
  using Verb = JobOptions::Verb;
  Json by_id = Json::object({{"id", options.id}});
  Json by_device = Json::object({{"device", options.id}});
  switch (options.verb) {
    case Verb::list: co_await list_jobs(context, client); break;
    case Verb::watch: co_return co_await watch_job(context, client, options.id);
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
  const bool named = outcome || id.empty() || outcome.error().message().find(id) != std::string::npos;
  if (!named)
    co_await outcome.error().with_context(fmt::format("job '{}'", id));
  co_return co_await unwrap(std::move(outcome));
}

}  // namespace

Task<Exit> job(const Context& context, JobOptions options) {
  QmpClient client = co_await context.connect();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_return co_await finally(run_named(context, client, std::move(options)), close);
}

}  // namespace tidemark::cli
