#include "format/qcow2/check/check.hpp"

#include <algorithm>

#include "format/qcow2/check/check_repair.hpp"

namespace tidemark::qcow2 {
namespace {

constexpr std::uint64_t not_clean =
    static_cast<std::uint64_t>(Incompatible::dirty) | static_cast<std::uint64_t>(Incompatible::corrupt);

Task<Header> header_of(Edge& file) {
  AlignedBuffer start(std::min<std::uint64_t>(file.size(), sector_size));
  co_await file.read(0, start.bytes());
  const std::uint64_t cluster_size = co_await unwrap(first_cluster_size(start.bytes()));
  AlignedBuffer cluster(std::min(file.size(), cluster_size));
  co_await file.read(0, cluster.bytes());
  co_return co_await unwrap(parse_header(cluster.bytes(), file.size()));
}

// Counts that are not raised would not make an image right whose counts are too low.
bool may_repair(const CheckOptions& options, const CheckReport& report) {
  if (report.corruptions == 0 && report.leaks == 0) return false;
  if (!options.leaves_damage) return true;
  return report.sees_all() && (options.repair == Repair::all || report.corruptions == 0);
}

Task<CheckReport> pass(Edge& file, CheckOptions& options, bool repair) {
  CheckReport report;
  Header header = co_await header_of(file);
  Checker checker(file, std::move(header), options, report);
  co_await checker.run();
  if (repair && may_repair(options, report)) {
    CheckRepair repairing(checker, report.corruptions == 0);
    co_await repairing.run();
  }
  co_return std::move(report);
}

// An image that is right need not be looked at again when it is opened.
Task<> mark_clean(Edge& file) {
  const Header header = co_await header_of(file);
  if (header.incompatible & not_clean) co_await write_incompatible(file, header.incompatible & ~not_clean);
}

std::uint64_t less(std::uint64_t before, std::uint64_t after) { return before > after ? before - after : 0; }

}  // namespace

Task<CheckReport> check_image(Edge& file, CheckOptions options) {
  const bool repair = options.repair != Repair::nothing;
  CheckReport first = co_await pass(file, options, repair);
  if (!repair) co_return std::move(first);
  CheckReport report;
  if (may_repair(options, first)) {
    report = co_await pass(file, options, false);
    report.corruptions_fixed = less(first.corruptions, report.corruptions);
    report.leaks_fixed = less(first.leaks, report.leaks);
    report.messages = std::move(first.messages);
    report.messages_left_out = first.messages_left_out;
  } else {
    report = std::move(first);
  }
  if (report.corruptions == 0 && report.check_errors == 0) co_await mark_clean(file);
  co_return std::move(report);
}

}  // namespace tidemark::qcow2
