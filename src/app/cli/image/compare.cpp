#include <algorithm>

#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/session.hpp"
#include "app/cli/progress.hpp"
#include "image/compare.hpp"

namespace tidemark::cli {
namespace {

using image::CompareReport;

Task<CompareReport> run_compare(const Context& context, const ImageCompareOptions& options) {
  std::function<Task<CompareReport>(Session&)> body = [&](Session& session) -> Task<CompareReport> {
    ImageAccess access;
    access.force_share = options.force_share;
    Edge* first = co_await session.open(options.first, access);
    Edge* second = co_await session.open(options.second, access);
    Progress progress(context, "compare");
    const std::uint64_t total = std::max(first->size(), second->size());
    image::CompareOptions compare;
    compare.strict = options.strict;
    compare.course.interrupted = context.interrupted;
    compare.course.progress = [&progress, total](std::uint64_t done) { progress.update(done, total); };
    co_return co_await image::compare_disks(*first, *second, std::move(compare));
  };
  co_return co_await in_session<CompareReport>(context.reactor, body, context.interrupted);
}

void print(const CompareReport& report, bool strict) {
  if (report.sizes_differ) print_line(strict ? "Strict mode: Image size mismatch!" : "Warning: Image size mismatch!");
  if (strict && report.allocation_at) print_line(fmt::format("Strict mode: Offset {} block status mismatch!", *report.allocation_at));
  if (report.content_at) print_line(fmt::format("Content mismatch at offset {}!", *report.content_at));
  if (report.same(strict)) print_line("Images are identical.");
}

Json to_json(const CompareReport& report, bool strict) {
  auto number = [](const std::optional<std::uint64_t>& at) { return at ? Json(*at) : Json(); };
  return Json::object({{"identical", report.same(strict)},
                       {"sizes-differ", report.sizes_differ},
                       {"content-mismatch", number(report.content_at)},
                       {"allocation-mismatch", strict ? number(report.allocation_at) : Json()}});
}

}  // namespace

Task<Exit> image_compare(const Context& context, ImageCompareOptions options) {
  auto compared = co_await run_compare(context, options).result();
  if (!compared && compared.error().code() == Errc::cancelled) co_await compared.error();
  if (!compared) {
    print_error(compared.error(), context.json);
    co_return image_exit::cannot_compare;
  }
  if (context.json) print_json(to_json(*compared, options.strict));
  else print(*compared, options.strict);
  co_return compared->same(options.strict) ? Exit::ok : image_exit::different;
}

}  // namespace tidemark::cli
