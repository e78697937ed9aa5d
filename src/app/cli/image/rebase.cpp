// First what differs is written into the image, and is durable; then its header names the new file, while nobody else has the image.
// What it reads as stays, so its bitmaps stay true.
#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/leaks.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/image/snapshots.hpp"
#include "app/cli/progress.hpp"
#include "app/cli/text.hpp"
#include "format/qcow2/check/offline.hpp"
#include "image/rebase.hpp"

namespace tidemark::cli {
namespace {

// The chain below an image; null when there is none.
Task<Edge*> open_below(Session& session, std::vector<ImageName> chain, bool force_share) {
  if (chain.empty()) co_return nullptr;
  Json description = co_await describe_layers(session.reactor(), std::move(chain));
  if (force_share) description.set("force-share", true);
  co_return co_await session.open(std::move(description), false);
}

Task<std::uint64_t> copy(const Context& context, const ImageRebaseOptions& options, std::string path, std::vector<ImageName> before,
                         std::vector<ImageName> after, bool& begun) {
  std::function<Task<std::uint64_t>(Session&)> body = [&](Session& session) -> Task<std::uint64_t> {
    ImageAccess access;
    access.write = access.keeps_content = true;
    access.below = false;
    ImageName image{path, "qcow2"};
    Edge* overlay = co_await session.open(std::move(image), access);
    auto& driver = static_cast<Qcow2Driver&>(overlay->node().driver());
    if (const auto kept = driver.snapshots(); !kept.empty()) co_await would_change(path, kept.front().name);
    const std::string format = options.backing.empty() ? std::string() : options.backing_format;
    co_await unwrap(driver.check_backing_name(options.backing, format));
    Edge* was = co_await open_below(session, before, options.force_share);
    Edge* will_be = co_await open_below(session, after, options.force_share);
    Progress progress(context, "rebase");
    const std::uint64_t size = overlay->size();
    image::Course course;
    course.interrupted = context.interrupted;
    course.progress = [&progress, size](std::uint64_t done) { progress.update(done, size); };
    begun = true;
    const std::uint64_t written = co_await image::copy_differences(*overlay, was, will_be, std::move(course));
    co_await overlay->flush();
    co_await driver.write_backing_name(options.backing, format);
    co_return written;
  };
  co_return co_await in_session<std::uint64_t>(context.reactor, body, context.interrupted);
}

Task<> change_header(const Context& context, const ImageRebaseOptions& options) {
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess access;
    access.write = true;
    Edge* file = co_await session.open_bytes(options.image.name, access);
    const std::string format = options.backing.empty() ? std::string() : options.backing_format;
    co_await qcow2::change_backing(*file, options.backing, format);
  };
  co_await in_session<void>(context.reactor, body, context.interrupted);
}

// What the image stands on now, as it will be read.
Task<std::vector<ImageName>> chain_below(Reactor& reactor, std::string path) {
  ImageName top{std::move(path), "qcow2"};
  auto chain = co_await chain_of(reactor, std::move(top));
  chain.erase(chain.begin());
  co_return std::move(chain);
}

Error broken_off(const Error& error, const std::string& left) {
  if (error.code() == Errc::cancelled)
    return Error(Errc::cancelled, "interrupted; the image reads as before, and stands on the same file" + left);
  return Error(error.code(), error.message() + left, error.os_errno());
}

Task<std::uint64_t> rebase_safely(const Context& context, const ImageRebaseOptions& options, std::string path) {
  auto before = co_await chain_below(context.reactor, path);
  std::vector<ImageName> after;
  if (!options.backing.empty()) {
    ImageName below = co_await check_backing(context.reactor, path, options.backing, options.backing_format);
    auto found = co_await chain_of(context.reactor, below).result();
    if (!found) co_await found.error().with_context(fmt::format("Could not open backing file '{}'", options.backing));
    after = *std::move(found);
  }
  const ImageName image{path, "qcow2"};
  bool begun = false;
  auto copied = co_await copy(context, options, path, std::move(before), std::move(after), begun).result();
  std::string left;
  if (!copied && begun) left = co_await tidy_after_failure(context, image);
  if (!copied) co_await broken_off(copied.error(), left);
  co_return co_await unwrap(std::move(copied));
}

}  // namespace

Task<std::uint64_t> rebase(const Context& context, ImageRebaseOptions options) {
  const std::string format = co_await format_of(context.reactor, options.image, false);
  const auto path = local_path(options.image.name);
  if (format != "qcow2") co_await Error(Errc::unsupported, "Backing file not supported for file format 'raw'");
  if (!path) co_await Error(Errc::unsupported, fmt::format("'{}': only files and block devices can be rebased", options.image.name));
  if (!options.backing.empty() && options.backing_format.empty())
    co_await Error(Errc::invalid_argument, fmt::format("Backing file '{}' specified without its format; give -F raw or -F qcow2",
                                                       options.backing));
  std::uint64_t written = 0;
  if (options.unsafe && !options.backing.empty())
    co_await check_unchecked_backing(context.reactor, *path, options.backing, options.backing_format);
  if (options.unsafe) co_await change_header(context, options);
  else written = co_await rebase_safely(context, options, *path);
  co_return written;
}

Task<Exit> image_rebase(const Context& context, ImageRebaseOptions options) {
  const std::uint64_t written = co_await rebase(context, options);
  if (context.json) {
    print_json(Json::object({{"filename", options.image.name}, {"backing-filename", options.backing}, {"data-bytes", written}}));
    co_return Exit::ok;
  }
  const std::string on = options.backing.empty() ? std::string("nothing") : "'" + options.backing + "'";
  print_line(fmt::format("rebased '{}' on {}: {} written", options.image.name, on, human_size(written)));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
