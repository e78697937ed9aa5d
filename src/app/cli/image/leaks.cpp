#include "app/cli/image/leaks.hpp"

#include <fmt/format.h>

#include "app/cli/image/session.hpp"
#include "format/qcow2/check/check.hpp"

namespace tidemark::cli {
namespace {

using qcow2::CheckReport;
using qcow2::Repair;

// What the volume is full of lies at the file's end, mostly.  A device has no other end.
Task<> cut_off(Edge& file, const CheckReport& report) {
  if (report.clean() && report.image_end < file.size()) (void)co_await file.truncate(report.image_end).result();
}

Task<CheckReport> repair(const Context& context, ImageName image, Repair how, bool cuts) {
  std::function<Task<CheckReport>(Session&)> body = [&](Session& session) -> Task<CheckReport> {
    ImageAccess access;
    access.write = true;
    Edge* file = co_await session.open_bytes(image.name, access);
    qcow2::CheckOptions options;
    options.repair = how;
    options.leaves_damage = true;
    options.interrupted = session.given_up();
    const CheckReport report = co_await qcow2::check_image(*file, std::move(options));
    if (cuts) co_await cut_off(*file, report);
    co_return report;
  };
  co_return co_await in_session<CheckReport>(context.reactor, body, context.interrupted);
}

// One whose refcounts wait for its closing is repaired as it is wherever it is opened to be written.
Task<CheckReport> repair_file(const Context& context, ImageName image) {
  const qcow2::Header header = co_await read_header(context.reactor, image.name);
  const Repair how = header.has(qcow2::Incompatible::dirty) ? Repair::all : Repair::leaks;
  co_return co_await repair(context, std::move(image), how, true);
}

std::string is_damaged(const std::string& name) {
  return fmt::format("'{}' is damaged: run 'tidemark image check {}'", name, name);
}

bool damaged(const CheckReport& report) { return report.corruptions != 0 || report.check_errors != 0; }

}  // namespace

Task<> give_back_leaks(const Context& context, ImageName image) {
  const std::string name = image.name;
  const CheckReport report = co_await repair(context, std::move(image), Repair::leaks, false);
  if (damaged(report)) print_error(Error(Errc::corrupt, is_damaged(name)), context.json);
}

Task<std::string> tidy_after_failure(const Context& context, ImageName image) {
  if (image.format != "qcow2") co_return std::string();
  const auto tidied = co_await repair_file(context, image).result();
  if (tidied && damaged(*tidied)) co_return "; " + is_damaged(image.name);
  if (tidied && tidied->leaks == 0) co_return std::string();
  co_return fmt::format("; 'tidemark image check -r leaks {}' gives back what it holds for nothing", image.name);
}

}  // namespace tidemark::cli
