#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/session.hpp"
#include "app/cli/text.hpp"

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

}  // namespace

Task<Exit> image_resize(const Context& context, ImageResizeOptions options) {
  std::uint64_t before = 0, after = 0;
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    ImageAccess access;
    access.write = true;
    Edge* image = co_await session.open(options.image, access);
    before = image->size();
    after = co_await unwrap(new_size(options.size, before));
    if (after < before && !options.shrink)
      co_await Error(Errc::invalid_argument,
                     fmt::format("'{}' would lose all data beyond {} bytes; give --shrink if that is wanted", options.image.name, after));
    co_await image->truncate(after);
    co_await image->flush();
  };
  co_await in_session<void>(context.reactor, body);
  if (context.json) print_json(Json::object({{"filename", options.image.name}, {"virtual-size", after}}));
  else print_line(fmt::format("resized '{}' from {} to {}", options.image.name, human_size(before), human_size(after)));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
