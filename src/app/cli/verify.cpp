#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "app/images.hpp"
#include "backup/walk.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

struct Outcome {
  WalkReport report;
  std::string error;                 // it could not be walked to its end
  bool unread = false;               // for a reason outside the backup: not found damaged
  bool damaged() const { return report.mismatches != 0 || (!error.empty() && !unread); }
  bool ok() const { return report.mismatches == 0 && error.empty(); }
};

Task<WalkReport> walk_disk(const Context& context, const BackupDirectory& directory, const PointManifest& point,
                           std::string disk) {
  const auto chain = co_await unwrap(directory.chain(point, disk));
  Expectations expected = co_await Expectations::open(context.reactor, directory, chain, disk);
  auto image = co_await PointImage::open(context.reactor, image_paths(directory, chain, disk)).result();
  Result<WalkReport> walked = image ? WalkReport{} : Result<WalkReport>(image.error());
  if (image) {
    Progress progress(context, fmt::format("verify {} {}", point.id, disk));
    WalkOptions options;
    options.stop_at_first_mismatch = false;
    options.interrupted = context.interrupted;
    const std::uint64_t size = expected.disk_size();
    options.progress = [&progress, size](std::uint64_t done) { progress.update(done, size); };
    walked = co_await walk_point((*image)->disk(), expected, nullptr, std::move(options)).result();
    (void)co_await (*image)->close().result();
  }
  (void)co_await expected.close().result();
  co_return co_await unwrap(std::move(walked));
}

// A disk that cannot be walked to its end is damaged, or cannot be read now, and does not keep the others from being looked at.
Task<Outcome> verify_disk(const Context& context, const BackupDirectory& directory, const PointManifest& point,
                          std::string disk) {
  Outcome outcome;
  auto walked = co_await walk_disk(context, directory, point, std::move(disk)).result();
  if (walked) outcome.report = *std::move(walked);
  else if (walked.error().code() == Errc::cancelled) co_await walked.error();
  else {
    outcome.error = walked.error().message();
    outcome.unread = !is_damage(walked.error());
  }
  co_return std::move(outcome);
}

Json to_json(const PointManifest& point, const std::string& disk, const Outcome& outcome) {
  Json where = Json::array();
  for (const Range& range : outcome.report.first_mismatches)
    where.push_back(Json::object({{"offset", range.offset}, {"length", range.length}}));
  Json row = Json::object({{"point", point.id},
                           {"disk", disk},
                           {"ok", outcome.ok()},
                           {"data-bytes", outcome.report.data_bytes},
                           {"zero-bytes", outcome.report.zero_bytes},
                           {"mismatches", outcome.report.mismatches},
                           {"first-mismatches", std::move(where)}});
  const std::string& why = outcome.error.empty() ? outcome.report.read_error : outcome.error;
  if (!why.empty()) row.set("error", why);
  return row;
}

// Of a point whose manifest is damaged.
Json to_json(const DamagedPoint& point) {
  return Json::object({{"point", point.id}, {"disk", Json()}, {"ok", false}, {"error", point.why.message()}});
}

void print_outcome(const PointManifest& point, const std::string& disk, const Outcome& outcome) {
  const WalkReport& report = outcome.report;
  if (!outcome.error.empty()) {
    print_line(fmt::format("{}  {}  {}: {}", point.id, disk, outcome.unread ? "NOT VERIFIED" : "DAMAGED", outcome.error));
  } else if (report.mismatches == 0) {
    print_line(fmt::format("{}  {}  ok: {} of data, {} of zeroes", point.id, disk, human_size(report.data_bytes),
                           human_size(report.zero_bytes)));
  } else {
    const std::string unread = report.read_error.empty() ? "" : " or cannot be read: " + report.read_error;
    print_line(fmt::format("{}  {}  DAMAGED: {} granules differ from their checksum{}", point.id, disk, report.mismatches, unread));
    for (const Range& range : report.first_mismatches)
      print_line(fmt::format("    bytes {} to {}", range.offset, range.end()));
  }
}

Task<Exit> verify_points(const Context& context, const BackupDirectory& directory, VerifyOptions options) {
  std::vector<const PointManifest*> points;
  if (options.all) {
    for (const PointManifest& point : directory.points()) points.push_back(&point);
  } else {
    points.push_back(co_await unwrap(directory.find(options.point)));
  }
  bool damaged = false, all_ok = true;
  Json rows = Json::array();
  for (const PointManifest* point : points)
    for (const DiskManifest& disk : point->disks) {
      const Outcome outcome = co_await verify_disk(context, directory, *point, disk.name);
      damaged = damaged || outcome.damaged();
      all_ok = all_ok && outcome.ok();
      if (context.json) rows.push_back(to_json(*point, disk.name, outcome));
      else print_outcome(*point, disk.name, outcome);
    }
  if (options.all)
    for (const DamagedPoint& point : directory.damaged()) {
      damaged = damaged || is_damage(point.why);
      all_ok = false;
      if (context.json) rows.push_back(to_json(point));
      else print_error(point.why.with_context("damaged point " + point.id), false);
    }
  if (context.json) print_json(rows);
  if (damaged) co_return Exit::damaged;
  co_return all_ok ? Exit::ok : Exit::failed;
}

}  // namespace

Task<Exit> verify(const Context& context, VerifyOptions options) {
  BackupDirectory directory =
      co_await BackupDirectory::open(context.reactor, options.directory, BackupDirectory::Open::read);
  auto close = [&directory]() -> Task<> { return directory.close(); };
  co_return co_await finally(verify_points(context, directory, std::move(options)), close);
}

}  // namespace tidemark::cli
