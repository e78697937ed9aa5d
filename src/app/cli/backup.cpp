#include <fmt/format.h>

#include "app/cli/backup_run.hpp"
#include "app/cli/text.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

void print_point(const Context& context, const PointManifest& point, const BackupRun& run) {
  const std::vector<RunDisk>& disks = run.disks();
  if (context.json) {
    Json rows = Json::array();
    for (const RunDisk& disk : disks)
      rows.push_back(Json::object({{"name", disk.choice.name},
                                   {"node", disk.choice.node},
                                   {"size", disk.size},
                                   {"level", disk.plan.base ? "incremental" : "full"},
                                   {"base", disk.plan.base ? Json(*disk.plan.base) : Json()},
                                   {"full-reason", disk.plan.base ? Json() : Json(disk.plan.full_reason)},
                                   {"stored-bytes", disk.manifest.stored_bytes}}));
    const std::string& volatile_reason = run.bitmaps_reason();
    print_json(Json::object({{"point", point.id},
                             {"time", utc_time(point.time_ns)},
                             {"seconds", point.seconds},
                             {"bitmaps-persistent", volatile_reason.empty()},
                             {"bitmaps-reason", volatile_reason.empty() ? Json() : Json(volatile_reason)},
                             {"quiesced", run.quiesces() ? Json(run.quiesced().ok()) : Json()},
                             {"disks", std::move(rows)}}));
    return;
  }
  for (const RunDisk& disk : disks) {
    const std::string level = disk.plan.base ? "incremental on " + *disk.plan.base : "full (" + disk.plan.full_reason + ")";
    print_line(fmt::format("{}  {}  {}: {} of {}", point.id, disk.choice.name, level, human_size(disk.manifest.stored_bytes),
                           human_size(disk.size)));
  }
  print_line(fmt::format("point {} complete in {}", point.id, human_duration(point.seconds)));
}

// A daemon that is gone has taken what was in it along.
Error with_what_is_left(const Error& why, const Result<>& undone) {
  if (!undone && why.code() != Errc::disconnected)
    return Error(why.code(), fmt::format("{}; the next backup will clean up, it could not be done now: {}", why.message(),
                                         undone.error().message()));
  if (undone && why.code() == Errc::cancelled) return Error(Errc::cancelled, "interrupted; nothing was left behind");
  return why;
}

Task<> run_in(const Context& context, QmpClient& client, BackupDirectory& directory, BackupOptions options) {
  BackupRun backup(context, client, directory, std::move(options));
  auto point = co_await backup.run().result();
  if (!point) {
    auto undone = co_await backup.undo().result();
    // By the directory's id the next backup finds what is left.
    if (undone) undone = co_await directory.retract().result();
    co_await with_what_is_left(point.error(), undone);
  }
  print_point(context, *point, backup);
  if (!backup.quiesced()) co_await backup.quiesced().error().with_context(fmt::format("point '{}' is complete", point->id));
}

Task<> open_and_run(const Context& context, QmpClient& client, BackupOptions options) {
  BackupDirectory directory =
      co_await BackupDirectory::open(context.reactor, options.directory, BackupDirectory::Open::create);
  auto close = [&directory]() -> Task<> { return directory.close(); };
  co_await finally(run_in(context, client, directory, std::move(options)), close);
}

}  // namespace

Task<Exit> backup(const Context& context, BackupOptions options) {
  QmpClient client = co_await context.connect();
  client.see_through();
  auto close = [&client]() -> Task<> { return client.close(); };
  co_await finally(open_and_run(context, client, std::move(options)), close);
  co_return Exit::ok;
}

}  // namespace tidemark::cli
