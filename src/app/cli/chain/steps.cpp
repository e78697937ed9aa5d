#include "app/cli/chain/steps.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "app/cli/fields.hpp"
#include "app/cli/image/commands.hpp"
#include "app/cli/progress.hpp"

namespace tidemark::cli {
namespace {

constexpr Duration poll_interval = std::chrono::milliseconds(100);

std::string node_of(const Json& layers, std::size_t layer) { return text(items(layers)[layer], "node-name"); }
std::string file_of(const Json& layers, std::size_t layer) { return text(items(layers)[layer], "filename"); }
std::string format_of(const Json& layers, std::size_t layer) { return text(items(layers)[layer], "driver"); }

Json job_arguments(const Json& layers, Removal step, std::string job, std::uint64_t speed) {
  Json arguments = Json::object({{"job-id", std::move(job)}, {"auto-dismiss", false}});
  if (speed != 0) arguments.set("speed", speed);
  if (step.commit) {
    arguments.set("device", node_of(layers, 0));
    arguments.set("top-node", node_of(layers, step.first));
    arguments.set("base-node", node_of(layers, step.into()));
    return arguments;
  }
  arguments.set("device", node_of(layers, step.into()));
  if (step.last + 1 < items(layers).size()) arguments.set("base-node", node_of(layers, step.last + 1));
  return arguments;
}

Task<std::string> free_name(QmpClient& client) {
  const Json jobs = co_await client.execute("query-jobs");
  for (unsigned i = 0;; ++i) {
    std::string name = fmt::format("tidemark-chain{}", i);
    if (!find_by(jobs, "id", name)) co_return name;
  }
}

// Once the job has concluded, however it ended.
Task<> wait(const Context& context, QmpClient& client, std::string job, const CancelToken& interrupted) {
  Progress progress(context, job);
  for (bool completed = false;;) {
    const Json jobs = co_await client.execute("query-jobs");
    const Json* entry = find_by(jobs, "id", job);
    if (!entry) co_await Error(Errc::not_found, fmt::format("job '{}' is gone, and whether it went well was not told", job));
    const std::string status = text(*entry, "status"), error = text(*entry, "error");
    Json by_id = Json::object({{"id", job}});
    if (status == "concluded") {
      progress.finish();
      co_await client.execute("job-dismiss", std::move(by_id));
      if (!error.empty()) co_await Error(Errc::io, fmt::format("job '{}' failed: {}", job, error));
      co_return;
    }
    if (status == "ready" && !completed) co_await client.execute("job-complete", std::move(by_id));
    completed = completed || status == "ready";
    progress.update(number(*entry, "current-progress"), number(*entry, "total-progress"));
    (void)co_await context.reactor.sleep(poll_interval, interrupted).result();
    if (interrupted.requested()) co_await Error(Errc::cancelled, "interrupted");
  }
}

// Interrupted, the job is cancelled before anything is said.
Task<> see_through(const Context& context, QmpClient& client, std::string job) {
  const Result<> done = co_await wait(context, client, job, context.interrupted).result();
  if (done || done.error().code() != Errc::cancelled) co_return co_await unwrap(done);
  Json by_id = Json::object({{"id", job}});
  (void)co_await client.execute("job-cancel", std::move(by_id)).result();
  const CancelToken never;
  (void)co_await wait(context, client, job, never).result();
  co_await Error(Errc::cancelled, "interrupted; the steps that were done stay done");
}

// As the header of one image is to name another.
std::string name_seen_from(const std::string& file, const std::string& other) {
  const std::filesystem::path there(other);
  if (there.is_absolute() && !std::filesystem::path(file).is_absolute()) return other;
  return there.lexically_relative(std::filesystem::path(file).parent_path()).string();
}

Task<> set_backing(const Context& context, const Json& layers, std::size_t image, std::optional<std::size_t> below, bool unsafe) {
  ImageRebaseOptions rebasing;
  rebasing.image = {file_of(layers, image), "qcow2"};
  rebasing.unsafe = unsafe;
  if (below) {
    rebasing.backing = name_seen_from(file_of(layers, image), file_of(layers, *below));
    rebasing.backing_format = format_of(layers, *below);
  }
  (void)co_await rebase(context, std::move(rebasing));
}

}  // namespace

Task<> remove_live(const Context& context, QmpClient& client, const Json& layers, Removal step, std::uint64_t speed) {
  const std::string job = co_await free_name(client);
  Json arguments = job_arguments(layers, step, job, speed);
  const std::string command = step.commit ? "block-commit" : "block-stream";
  co_await client.execute(command, std::move(arguments));
  co_await see_through(context, client, job);
}

// What is committed is durable before the image above names the one below.
Task<> remove_offline(const Context& context, const Json& layers, Removal step) {
  for (const Json& layer : items(layers))
    if (text(layer, "filename").starts_with("json:"))
      co_await Error(Errc::unsupported, fmt::format("'{}' is not named by a file alone", text(layer, "filename")));
  if (!step.commit) {
    std::optional<std::size_t> below;
    if (step.last + 1 < items(layers).size()) below = step.last + 1;
    co_return co_await set_backing(context, layers, step.into(), below, false);
  }
  ImageCommitOptions committing;
  committing.image = {file_of(layers, step.first), format_of(layers, step.first)};
  committing.base = file_of(layers, step.into());
  committing.keep = true;
  (void)co_await commit(context, std::move(committing));
  if (step.first != 0) co_await set_backing(context, layers, step.first - 1, step.into(), true);
}

}  // namespace tidemark::cli
