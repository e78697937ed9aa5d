#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/session.hpp"
#include "app/cli/progress.hpp"
#include "base/utf8.hpp"
#include "format/qcow2/check/check.hpp"

namespace tidemark::cli {
namespace {

using qcow2::CheckReport;
using qcow2::Repair;

Repair repair_of(const std::string& word) {
  if (word == "leaks") return Repair::leaks;
  return word == "all" ? Repair::all : Repair::nothing;
}

Task<CheckReport> run_check(const Context& context, const ImageCheckOptions& options) {
  std::function<Task<CheckReport>(Session&)> body = [&](Session& session) -> Task<CheckReport> {
    ImageAccess access;
    access.write = !options.repair.empty();
    access.force_share = options.force_share;
    Edge* file = co_await session.open_bytes(options.image.name, access);
    Progress progress(context, access.write ? "repair" : "check");
    qcow2::CheckOptions check;
    check.repair = repair_of(options.repair);
    check.interrupted = context.interrupted;
    check.progress = [&progress](std::uint64_t done, std::uint64_t total) { progress.update(done, total); };
    co_return co_await qcow2::check_image(*file, std::move(check));
  };
  co_return co_await in_session<CheckReport>(context.reactor, body, context.interrupted);
}

void print(const CheckReport& report) {
  std::string out;
  for (const std::string& message : report.messages) out += printable(message) + "\n";
  if (report.messages_left_out != 0) out += fmt::format("... and {} more\n", report.messages_left_out);
  if (report.leaks_fixed != 0 || report.corruptions_fixed != 0)
    out += fmt::format("The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n",
                       report.leaks_fixed, report.corruptions_fixed);
  if (report.clean()) out += "No errors were found on the image.\n";
  if (report.corruptions != 0)
    out += fmt::format("\n{} errors were found on the image.\n"
                       "Data may be corrupted, or further writes to the image may corrupt it.\n", report.corruptions);
  if (report.leaks != 0)
    out += fmt::format("\n{} leaked clusters were found on the image.\n"
                       "This means waste of disk space, but no harm to data.\n", report.leaks);
  if (report.check_errors != 0) out += fmt::format("\n{} internal errors have occurred during the check.\n", report.check_errors);
  const auto total = static_cast<double>(report.total_clusters), used = static_cast<double>(report.allocated_clusters);
  if (report.total_clusters != 0 && report.allocated_clusters != 0)
    out += fmt::format("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n", report.allocated_clusters,
                       report.total_clusters, 100 * used / total, 100 * static_cast<double>(report.fragmented_clusters) / used,
                       100 * static_cast<double>(report.compressed_clusters) / used);
  out += fmt::format("Image end offset: {}\n", report.image_end);
  print_lines(out);
}

Json to_json(const ImageCheckOptions& options, const CheckReport& report) {
  Json messages = Json::array();
  for (const std::string& message : report.messages) messages.push_back(message);
  return Json::object({{"filename", options.image.name},
                       {"format", "qcow2"},
                       {"check-errors", report.check_errors},
                       {"image-end-offset", report.image_end},
                       {"corruptions", report.corruptions},
                       {"leaks", report.leaks},
                       {"corruptions-fixed", report.corruptions_fixed},
                       {"leaks-fixed", report.leaks_fixed},
                       {"total-clusters", report.total_clusters},
                       {"allocated-clusters", report.allocated_clusters},
                       {"fragmented-clusters", report.fragmented_clusters},
                       {"compressed-clusters", report.compressed_clusters},
                       {"messages", std::move(messages)}});
}

}  // namespace

Task<Exit> image_check(const Context& context, ImageCheckOptions options) {
  const std::string format = co_await format_of(context.reactor, options.image, false);
  if (format != "qcow2") {
    print_error(Error(Errc::unsupported, fmt::format("'{}': This image format does not support checks", options.image.name)),
                context.json);
    co_return image_exit::cannot_check;
  }
  auto checked = co_await run_check(context, options).result();
  if (!checked) {
    // 3 would say that there are leaks.
    if (checked.error().code() != Errc::corrupt) co_await checked.error().with_context(options.image.name);
    print_error(checked.error().with_context(options.image.name), context.json);
    co_return Exit::failed;
  }
  if (context.json) print_json(to_json(options, *checked));
  else print(*checked);
  if (checked->check_errors != 0) co_return Exit::failed;
  if (checked->corruptions != 0) co_return image_exit::corrupt;
  co_return checked->leaks != 0 ? image_exit::leaks : Exit::ok;
}

}  // namespace tidemark::cli
