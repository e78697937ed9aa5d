#include <algorithm>

#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/text.hpp"
#include "backup/expectation.hpp"
#include "io/file.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

// What a point's own files occupy; what cannot be looked at, nothing.
Task<std::uint64_t> space_of(Reactor& reactor, std::string path) {
  std::uint64_t space = 0;
  const auto names = co_await fs::list(reactor, path);
  for (const std::string& name : names) {
    const auto info = co_await fs::stat(reactor, path + "/" + name).result();
    if (info) space += info->allocated;
  }
  co_return space;
}

std::string base_of(const PointManifest& point) {
  for (const auto& disk : point.disks)
    if (disk.base) return *disk.base;
  return "-";
}

Task<> print(const Context& context, const BackupDirectory& directory) {
  Table table({"POINT", "TIME", "LEVEL", "DISKS", "CHANGED", "ON DISK", "TOOK"});
  Json points = Json::array();
  for (const PointManifest& point : directory.points()) {
    const std::uint64_t space = co_await space_of(context.reactor, directory.point_path(point.id));
    std::uint64_t stored = 0;
    std::string names;
    Json disks = Json::array();
    for (const auto& disk : point.disks) {
      stored += disk.stored_bytes;
      names += (names.empty() ? "" : ",") + disk.name;
      disks.push_back(Json::object({{"name", disk.name},
                                    {"size", disk.size},
                                    {"base", disk.base ? Json(*disk.base) : Json()},
                                    {"stored-bytes", disk.stored_bytes},
                                    {"image", directory.point_path(point.id) + "/" + disk.image_file()}}));
    }
    table.add({point.id, utc_time(point.time_ns), point.full() ? "full" : "incremental", names, human_size(stored),
               human_size(space), human_duration(point.seconds)});
    points.push_back(Json::object({{"id", point.id},
                                   {"time", utc_time(point.time_ns)},
                                   {"level", point.full() ? "full" : "incremental"},
                                   {"base", point.full() ? Json() : Json(base_of(point))},
                                   {"disks", std::move(disks)},
                                   {"bytes-on-disk", space},
                                   {"seconds", point.seconds}}));
  }
  Json damaged = Json::array();
  for (const DamagedPoint& point : directory.damaged()) damaged.push_back(point.line());
  if (context.json) {
    print_json(Json::object({{"directory", directory.path()}, {"id", directory.id()}, {"points", std::move(points)},
                             {"damaged", std::move(damaged)}}));
    co_return;
  }
  print_lines(table.to_text());
  for (const DamagedPoint& point : directory.damaged()) print_error(Error(Errc::corrupt, "damaged point " + point.line()), false);
}

}  // namespace

Task<Exit> list(const Context& context, std::string path) {
  BackupDirectory directory = co_await BackupDirectory::open(context.reactor, std::move(path), BackupDirectory::Open::read);
  auto close = [&directory]() -> Task<> { return directory.close(); };
  co_await finally(print(context, directory), close);
  const auto& damaged = directory.damaged();
  if (damaged.empty()) co_return Exit::ok;
  const bool of_the_backup = std::any_of(damaged.begin(), damaged.end(), [](const auto& point) { return is_damage(point.why); });
  co_return of_the_backup ? Exit::damaged : Exit::failed;
}

}  // namespace tidemark::cli
