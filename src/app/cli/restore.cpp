#include <fmt/format.h>

#include "app/cli/commands.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "app/images.hpp"
#include "backup/walk.hpp"
#include "task/finally.hpp"

namespace tidemark::cli {
namespace {

class TargetSink final : public WalkSink {
 public:
  explicit TargetSink(Edge& target) : target_(target) {}
  Task<> data(std::uint64_t offset, Bytes bytes) override { return target_.write(offset, Buffers::of_const(bytes)); }
  Task<> zero(Range) override { co_return; }          // the target is new and reads as zeroes

 private:
  Edge& target_;
};

Result<std::string> choose_disk(const PointManifest& point, const std::string& asked) {
  if (asked.empty() && point.disks.size() == 1) return point.disks.front().name;
  std::string names;
  for (const auto& disk : point.disks) names += (names.empty() ? "" : ", ") + disk.name;
  if (asked.empty())
    return Error(Errc::invalid_argument, fmt::format("point {} holds several disks ({}); choose one with --disk", point.id, names));
  if (!point.find(asked))
    return Error(Errc::not_found, fmt::format("point {} holds no disk '{}'; it holds {}", point.id, asked, names));
  return asked;
}

Task<WalkReport> fill(const Context& context, const std::string& label, Edge& source, Expectations& expected,
                      RestoreTarget& target) {
  Progress progress(context, label);
  TargetSink sink(target.disk());
  WalkOptions options;
  options.interrupted = context.interrupted;
  const std::uint64_t size = expected.disk_size();
  options.progress = [&progress, size](std::uint64_t done) { progress.update(done, size); };
  co_return co_await walk_point(source, expected, &sink, std::move(options));
}

// The target appears under its name only when every byte was right and is durable.
Task<WalkReport> copy(const Context& context, Edge& source, Expectations& expected, const RestoreOptions& options) {
  auto target = co_await RestoreTarget::create(context.reactor, options.to, options.format, expected.disk_size(),
                                               options.force);
  auto filled = co_await fill(context, "restore", source, expected, *target).result();
  if (filled) {
    auto published = co_await target->publish().result();
    if (published) co_return *std::move(filled);
    filled = published.error();
  }
  auto discarded = co_await target->discard().result();
  if (discarded && filled.error().code() == Errc::cancelled)
    co_await Error(Errc::cancelled, "interrupted; nothing was left behind");
  co_await filled.error();
}

Task<WalkReport> copy_disk(const Context& context, const BackupDirectory& directory, const PointManifest& point,
                           std::string disk, const RestoreOptions& options) {
  const auto chain = co_await unwrap(directory.chain(point, disk));
  Expectations expected = co_await Expectations::open(context.reactor, directory, chain, disk);
  auto close_expected = [&expected]() -> Task<> { return expected.close(); };
  auto with_image = [&]() -> Task<WalkReport> {
    auto image = co_await PointImage::open(context.reactor, image_paths(directory, chain, disk));
    auto close_image = [&image]() -> Task<> { return image->close(); };
    co_return co_await finally(copy(context, image->disk(), expected, options), close_image);
  };
  co_return co_await finally(with_image(), close_expected);
}

Task<Exit> restore_from(const Context& context, const BackupDirectory& directory, const RestoreOptions& options) {
  const PointManifest* point = co_await unwrap(directory.find(options.point));
  const std::string disk = co_await unwrap(choose_disk(*point, options.disk));
  const Instant started = context.reactor.now();
  auto copied = co_await copy_disk(context, directory, *point, disk, options).result();
  if (!copied && copied.error().code() == Errc::corrupt)
    co_await copied.error().with_context(fmt::format("disk '{}' at point {} is damaged, nothing was restored", disk, point->id));
  const WalkReport report = co_await unwrap(std::move(copied));
  const double seconds = std::chrono::duration<double>(context.reactor.now() - started).count();
  if (context.json) {
    print_json(Json::object({{"point", point->id}, {"disk", disk}, {"to", options.to}, {"format", options.format},
                             {"data-bytes", report.data_bytes}, {"zero-bytes", report.zero_bytes}, {"seconds", seconds}}));
  } else {
    print_line(fmt::format("restored {} at {} to '{}': {} of data, every checksum right, {}", disk, point->id, options.to,
                           human_size(report.data_bytes), human_duration(seconds)));
  }
  co_return Exit::ok;
}

}  // namespace

Task<Exit> restore(const Context& context, RestoreOptions options) {
  options.to = behind_links(std::move(options.to));
  BackupDirectory directory =
      co_await BackupDirectory::open(context.reactor, options.directory, BackupDirectory::Open::read);
  auto close = [&directory]() -> Task<> { return directory.close(); };
  co_return co_await finally(restore_from(context, directory, options), close);
}

}  // namespace tidemark::cli
