#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/format_options.hpp"
#include "app/cli/image/kept_bitmaps.hpp"
#include "app/cli/text.hpp"
#include "block/node.hpp"
#include "format/qcow2/preallocate.hpp"

namespace tidemark::cli {
namespace {

// SIZE, +SIZE or -SIZE, of a disk that has `now` bytes.
Result<std::uint64_t> new_size(const std::string& word, std::uint64_t now) {
  const char sign = word.empty() ? ' ' : word[0];
  const bool relative = sign == '+' || sign == '-';
  std::uint64_t bytes = 0, size = 0;
  if (!parse_size(relative ? word.substr(1) : word, bytes))
    return Error(Errc::invalid_argument, fmt::format("'{}' is no size; write for instance 512K, +1G or -1.5G", word));
  if (sign == '-' && bytes > now) return Error(Errc::invalid_argument, fmt::format("the disk has {} bytes only", now));
  if (sign == '-') size = now - bytes;
  else if (!checked_add(sign == '+' ? now : 0, bytes, size) || size > align_down(max_disk_size, sector_size))
    return Error(Errc::out_of_range, fmt::format("'{}' is more than a disk can have", word));
  return align_up(size, sector_size);
}

// Space for what the disk has grown by.
Task<> reserve(Edge& image, std::uint64_t from, Qcow2Preallocation how, CancelToken interrupted) {
  BlockDriver& driver = image.node().driver();
  if (driver.name() == "qcow2") co_return co_await static_cast<Qcow2Driver&>(driver).reserve(from, how, interrupted);
  const Range grown{from, image.size() - from};
  co_await qcow2::reserve(image, grown, how, interrupted);
}

// What could not get its space is not there.
Task<> go_back(Edge& image, std::uint64_t before, Error error) {
  const auto back = co_await image.truncate(before).result();
  if (back && error.code() == Errc::cancelled) co_await Error(Errc::cancelled, "interrupted; the disk is as large as before");
  if (back) co_await error;
  co_await Error(error.code(), fmt::format("{}; the disk stays larger: {}", error.message(), back.error().message()));
}

Task<> check_preallocation(Edge& image, std::uint64_t after, Qcow2Preallocation how) {
  if (how == Qcow2Preallocation::off) co_return;
  if (after < image.size()) co_await Error(Errc::invalid_argument, "Preallocation can't be used for shrinking an image");
  if (how == Qcow2Preallocation::metadata && image.node().driver().name() != "qcow2")
    co_await Error(Errc::unsupported, "Unsupported preallocation mode 'metadata'");
}

}  // namespace

Task<Exit> image_resize(const Context& context, ImageResizeOptions options) {
  const Qcow2Preallocation preallocation = co_await unwrap(parse_preallocation(options.preallocation));
  std::uint64_t before = 0, after = 0;
  options.image.format = co_await format_of(context.reactor, options.image, false);
  std::optional<KeptBitmaps> kept;
  Result<> stored;
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess access;
    access.write = true;
    Json description = co_await describe(context.reactor, options.image, access);
    // What is given back when space runs out is to be free for others, too.
    const bool reserves = preallocation != Qcow2Preallocation::off;
    if (reserves && options.image.format == "qcow2") description.set("pass-discard-other", true);
    Edge* image = co_await session.open(std::move(description), true, true);
    before = image->size();
    after = co_await unwrap(new_size(options.size, before));
    if (after < before && !options.shrink)
      co_await Error(Errc::invalid_argument,
                     fmt::format("'{}' would lose all data beyond {} bytes; give --shrink if that is wanted", options.image.name, after));
    co_await check_preallocation(*image, after, preallocation);
    auto* const qcow2 = dynamic_cast<Qcow2Driver*>(&image->node().driver());
    if (after == 0 && qcow2 && qcow2->has_bitmaps())
      co_await Error(Errc::invalid_argument, fmt::format("'{}' has bitmaps, and a disk without content cannot; remove them first",
                                                         options.image.name));
    kept.emplace(co_await KeptBitmaps::take(context, options.image, image->node()));
    auto resized = co_await image->truncate(after).result();
    if (resized && reserves && after > before) {
      resized = co_await reserve(*image, before, preallocation, context.interrupted).result();
      if (!resized) resized = co_await go_back(*image, before, resized.error()).result();
    }
    if (resized) resized = co_await image->flush().result();
    stored = co_await kept->put_back(image->node()).result();
    co_await unwrap(resized);
  };
  auto resized = co_await in_session<void>(context.reactor, body, context.interrupted).result();
  if (kept) stored = co_await kept->finish(std::move(stored)).result();
  const char* const forgotten = "its bitmaps do not count any more";
  if (!resized && stored) co_await resized.error();
  if (!resized)
    co_await Error(resized.error().code(), fmt::format("{}; {}", resized.error().message(), forgotten), resized.error().os_errno());
  if (!stored) co_await stored.error().with_context(fmt::format("'{}' has {} bytes now, and {}", options.image.name, after, forgotten));
  if (context.json) print_json(Json::object({{"filename", options.image.name}, {"virtual-size", after}}));
  else print_line(fmt::format("resized '{}' from {} to {}", options.image.name, human_size(before), human_size(after)));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
