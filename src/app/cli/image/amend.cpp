// Changes what the header of an image says.  Its content stays, so its bitmaps stay true.
#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/format_options.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/progress.hpp"
#include "app/images.hpp"
#include "control/nodes/tracking_stores.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

Task<> check(const Context& context, Qcow2Driver& image, const Qcow2AmendOptions& wanted, std::string path) {
  const std::string backing = wanted.backing_file.value_or(image.backing_file());
  const std::string format = wanted.backing_format.value_or(image.backing_format());
  if (wanted.backing_file && !backing.empty()) (void)co_await check_backing(context.reactor, path, backing, format);
  const bool downgrade = wanted.version.value_or(3) < 3;
  const auto bitmaps = co_await image.bitmap_entries();
  if (downgrade && !bitmaps.empty())
    co_await Error(Errc::unsupported, fmt::format("version 2 has no bitmaps, and the image holds '{}'; remove it first", bitmaps[0].name));
}

Task<> check_no_store(Reactor& reactor, std::string path) {
  const std::string store = store_beside(path);
  const bool there = co_await fs::exists(reactor, store);
  if (there)
    co_await Error(Errc::unsupported, fmt::format("'{}' keeps bitmaps of the image as version 2, which version 3 would not have; "
                                                  "remove it first", store));
}

}  // namespace

Task<Exit> image_amend(const Context& context, ImageAmendOptions options) {
  Qcow2AmendOptions wanted = co_await unwrap(parse_amend_options(options.format_options));
  const std::string format = co_await format_of(context.reactor, options.image, false);
  const auto path = local_path(options.image.name);
  if (format != "qcow2" || !path)
    co_await Error(Errc::unsupported, fmt::format("'{}': only qcow2 files can be amended", options.image.name));
  Progress progress(context, "amend");
  wanted.progress = [&progress](std::uint64_t done, std::uint64_t total) { progress.update(done, total); };
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    Qcow2OpenOptions open;
    open.keeps_content = true;
    Qcow2Driver* image = co_await session.open_qcow2(*path, open);
    co_await check(context, *image, wanted, *path);
    // Who writes version 3 relies on its marks, which a store of version 2 does not look for.
    if (!image->can_have_bitmaps() && wanted.version.value_or(2) >= 3) co_await check_no_store(context.reactor, *path);
    co_await image->amend(wanted);
  };
  co_await in_session<void>(context.reactor, body, context.interrupted);
  progress.finish();
  if (context.json) print_json(Json::object({{"filename", options.image.name}}));
  else print_line(fmt::format("amended '{}'", options.image.name));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
