#include <fmt/format.h>

#include "app/cli/image/commands.hpp"
#include "app/cli/image/data_file.hpp"
#include "app/cli/image/make.hpp"
#include "app/cli/text.hpp"
#include "app/new_file.hpp"
#include "block/node.hpp"

namespace tidemark::cli {
namespace {

Task<std::uint64_t> size_of_image(Reactor& reactor, ImageName name) {
  std::function<Task<std::uint64_t>(Session&)> body = [&](Session& session) -> Task<std::uint64_t> {
    ImageAccess access;
    access.force_share = true;                           // its size alone is looked at
    const Edge* image = co_await session.open(name, access);
    co_return image->size();
  };
  co_return co_await in_session<std::uint64_t>(reactor, body);
}

Error no_size() { return Error(Errc::invalid_argument, "Image creation needs a size parameter"); }

// The image's size, and with a backing file that this can be opened.
Task<std::uint64_t> decide_size(const Context& context, const ImageCreateOptions& options, const Qcow2CreateOptions& given) {
  const std::uint64_t size = options.size.value_or(given.size);
  const bool sized = options.size || given.size != 0;
  const std::string image = local_path(options.file).value_or(std::string());
  if (given.backing_file.empty() || options.backing_unchecked) {
    if (!sized) co_await no_size();
    if (!given.backing_file.empty())
      co_await check_unchecked_backing(context.reactor, image, given.backing_file, given.backing_format);
    co_return size;
  }
  ImageName below = co_await check_backing(context.reactor, image, given.backing_file, given.backing_format);
  auto found = co_await size_of_image(context.reactor, std::move(below)).result();
  if (!found) co_await found.error().with_context(fmt::format("Could not open backing file '{}'", given.backing_file));
  if (sized) co_return size;
  co_return *found;
}

Task<> make(const Context& context, const ImageCreateOptions& options, FormatOptions format_options) {
  const bool file = co_await is_file_name(context.reactor, options.file);
  if (!file) co_return co_await make_image_on(context.reactor, options.file, options.format, std::move(format_options));
  const DataFile data = co_await place_data_file(context.reactor, options.file, format_options.qcow2.data_file);
  format_options.qcow2.data_file = data.stored;
  std::function<Task<>(std::string, std::string)> both = [&](std::string partial, std::string partial_data) -> Task<> {
    return make_image(context.reactor, std::move(partial), options.format, format_options, std::move(partial_data));
  };
  auto one = [&](std::string partial) -> Task<> { return both(std::move(partial), {}); };
  if (data.path.empty()) co_await make_file(context.reactor, *local_path(options.file), one);
  else co_await make_with_data_file(context.reactor, *local_path(options.file), data, both);
}

}  // namespace

Task<Exit> image_create(const Context& context, ImageCreateOptions options) {
  FormatOptions format_options = co_await unwrap(parse_format_options(options.format, options.format_options));
  Qcow2CreateOptions& given = format_options.qcow2;
  if (!options.backing.empty()) given.backing_file = options.backing;
  if (!options.backing_format.empty()) given.backing_format = options.backing_format;
  if (options.format == "raw" && !given.backing_file.empty())
    co_await Error(Errc::invalid_argument, "Backing file not supported for file format 'raw'");
  given.size = align_up(co_await decide_size(context, options, given), sector_size);
  const std::uint64_t size = given.size;
  given.interrupted = context.interrupted;
  auto made = co_await make(context, options, format_options).result();
  if (!made) co_await made.error().with_context(options.file);
  if (context.json)
    print_json(Json::object({{"filename", options.file}, {"format", options.format}, {"virtual-size", size}}));
  else
    print_line(fmt::format("created '{}': {}, {} ({} bytes)", options.file, options.format, human_size(size), size));
  co_return Exit::ok;
}

}  // namespace tidemark::cli
