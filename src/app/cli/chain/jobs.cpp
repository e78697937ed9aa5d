#include "app/cli/chain/jobs.hpp"

#include <unistd.h>

#include <map>
#include <optional>

#include <fmt/format.h>

#include "app/cli/chain/nodes.hpp"
#include "app/cli/fields.hpp"
#include "app/cli/progress.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration poll_interval = std::chrono::milliseconds(100);

// Nobody has one of that name, also not once it has gone.
std::string new_name(const Context& context) {
  return fmt::format("tidemark-chain-{}-{:08x}", ::getpid(), context.reactor.backend().random() & 0xffffffff);
}

// By the events that have come; as if it were there still.
Task<std::optional<Json>> end_of(QmpClient& client, std::string id) {
  while (client.has_event()) {
    const Json event = co_await client.next_event();
    const std::string what = text(event, "event");
    const Json* data = event.find("data");
    if (!data || text(*data, "device") != id) continue;
    Json ended = Json::object({{"status", "concluded"}});
    if (what == "BLOCK_JOB_COMPLETED") ended.set("error", text(*data, "error"));
    else if (what == "BLOCK_JOB_CANCELLED") ended.set("error", "Operation canceled");
    else continue;
    co_return std::move(ended);
  }
  co_return std::nullopt;
}

// One that has ended is not another's that goes by its name.
Task<Json> look_at(QmpClient& client, std::string id) {
  const Json jobs = co_await client.execute("query-jobs");
  auto ended = co_await end_of(client, id);
  if (ended) co_return *std::move(ended);
  if (const Json* entry = find_by(jobs, "id", id)) co_return *entry;
  co_await Error(Errc::not_found, fmt::format("job '{}' is gone, and whether it went well was not told", id));
  co_return Json();
}

Task<> tell_to_end(QmpClient& client, std::string id, WhenReady end) {
  Json by_id = Json::object({{"id", id}}), by_device = Json::object({{"device", id}});
  if (end == WhenReady::complete) co_await client.execute("job-complete", std::move(by_id));
  else co_await client.execute("block-job-cancel", std::move(by_device));
}

// Once it has concluded, or is ready and stays.  One that was told to end is not interrupted.
Task<Json> follow(const Context& context, QmpClient& client, std::string id, WhenReady when_ready) {
  Progress progress(context, id);
  for (bool told = false;;) {
    Json now = co_await look_at(client, id);
    const std::string status = text(now, "status");
    const bool ready = status == "ready";
    if (status == "concluded" || (ready && when_ready == WhenReady::stay)) co_return std::move(now);
    if (ready && !told) co_await tell_to_end(client, id, when_ready);
    told = told || ready;
    progress.update(number(now, "current-progress"), number(now, "total-progress"));
    CancelToken until;
    if (!told) until = context.interrupted;
    (void)co_await context.reactor.sleep(poll_interval, until).result();
    if (until.requested()) co_await Error(Errc::cancelled, "interrupted");
  }
}

Task<Json> cancel(const Context& context, QmpClient& client, std::string id) {
  Json by_id = Json::object({{"id", id}});
  (void)co_await client.execute("job-cancel", std::move(by_id)).result();
  for (;;) {
    Json now = co_await look_at(client, id);
    if (text(now, "status") == "concluded") co_return std::move(now);
    co_await context.reactor.sleep(poll_interval);
  }
}

const Json::Array& list_in(const Json& object, std::string_view key) {
  static const Json none = Json::array();
  const Json* list = object.find(key);
  return items(list ? *list : none);
}

// That stands in the way, by what uses the image, whatever filter the job has put on it.  Null: there is none.
Task<Json> find_job_on(QmpClient& client, std::string image) {
  const Json graph = co_await client.execute("x-debug-query-block-graph");
  const Json nodes = co_await all_nodes(client), jobs = co_await client.execute("query-jobs");
  std::map<std::uint64_t, const Json*> entries;
  for (const Json& entry : list_in(graph, "nodes")) entries[number(entry, "id")] = &entry;
  for (const Json& edge : list_in(graph, "edges")) {
    const Json* user = entries[number(edge, "parent")];
    const Json* used = entries[number(edge, "child")];
    if (!user || !used || text(*user, "type") != "block-job") continue;
    if (image_of_disk(nodes, text(*used, "name")) != image_of_disk(nodes, image)) continue;
    if (const Json* job = find_by(jobs, "id", text(*user, "name"))) co_return *job;
  }
  co_return Json();
}

// What a daemon says of a disk that a job uses.
bool tells_of_job(const std::string& error) {
  return error == "Need a root block node" || error.find("in use by block job") != std::string::npos;
}

Task<> start(QmpClient& client, DaemonJob job) {
  const std::string image = text(job.arguments, "device");
  const auto started = co_await client.execute(job.command, std::move(job.arguments)).result();
  if (started) co_return;
  if (!tells_of_job(started.error().message())) co_await started.error();
  const auto other = co_await find_job_on(client, image).result();
  if (!other || !other->is_object()) co_await started.error();
  const std::string id = text(*other, "id");
  co_await Error(Errc::busy, fmt::format("node '{0}' is in use by job '{1}' ({2}); wait for its end ('tidemark job watch {1}'), or end it "
                                         "('tidemark job cancel {1}')", image, id, text(*other, "type")));
}

}  // namespace

// Who was cancelled and has concluded without an error had taken effect before.
Task<std::string> run_job(const Context& context, QmpClient& client, DaemonJob job) {
  std::string id = new_name(context);
  job.arguments.set("job-id", id);
  const WhenReady when_ready = job.when_ready;
  co_await start(client, std::move(job));
  const auto followed = co_await follow(context, client, id, when_ready).result();
  Json now;
  if (followed) now = *followed;
  else {
    const auto cancelled = co_await cancel(context, client, id).result();
    if (!cancelled) co_await followed.error();
    now = *cancelled;
  }
  if (text(now, "status") != "concluded") co_return std::move(id);
  const std::string error = text(now, "error");
  if (error.empty()) co_return std::move(id);
  if (!followed) co_await followed.error();
  co_await Error(Errc::io, fmt::format("job '{}' failed: {}", id, error));
}

}  // namespace tidemark::cli
