#include <fmt/format.h>

#include "app/cli/copy_run.hpp"
#include "app/cli/text.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

void print(const Context& context, const CopyOptions& options, const CopyRun::Report& report, double seconds) {
  if (context.json) {
    print_json(Json::object({{"disk", options.disk}, {"file", options.file}, {"bytes", report.bytes}, {"cloned", report.cloned},
                             {"merged-before", report.merged_before}, {"seconds", seconds}}));
    return;
  }
  if (report.merged_before) print_line("what an earlier copy had left was merged first");
  print_line(fmt::format("disk '{}' {} to '{}': {} in {}", options.disk, report.cloned ? "cloned" : "copied", options.file,
                         human_size(report.bytes), human_duration(seconds)));
}

Task<> run_copy(const Context& context, QmpClient& client, CopyOptions options) {
  const Instant started = context.reactor.now();
  CopyRun run(context, client, options);
  const auto report = co_await run.run().result();
  const bool stopped = !report && report.error().code() == Errc::cancelled;
  if (stopped) co_await Error(Errc::cancelled, "interrupted; nothing was left behind");
  co_await unwrap(report);
  print(context, options, *report, std::chrono::duration<double>(context.reactor.now() - started).count());
}

}  // namespace

Task<Exit> copy(const Context& context, CopyOptions options) {
  if (!options.force) {
    const bool there = co_await fs::exists(context.reactor, options.file);
    if (there) co_await Error(Errc::exists, fmt::format("'{}' exists; replace it with --force", options.file));
  }
  QmpClient client = co_await context.connect();
  client.see_through();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(run_copy(context, client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
