#include "app/cli/image/make.hpp"

#include <fmt/format.h>

#include "block/node.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

Json file_at(const std::string& path) { return Json::object({{"driver", "file"}, {"filename", path}}); }

Task<> write_header(Reactor& reactor, Json storage, Qcow2CreateOptions options, std::string data_path) {
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    Edge* file = co_await session.open(std::move(storage), true);
    Edge* data = nullptr;
    if (!data_path.empty()) data = co_await session.open(file_at(data_path), true);
    co_await Qcow2Driver::create(*file, options, data);
    co_await file->flush();
  };
  co_await in_session<void>(reactor, body, options.interrupted);
}

Task<> check_room(Reactor& reactor, std::string name, Json storage, const Qcow2CreateOptions& options) {
  std::function<Task<>(Session&)> body = [&](Session& session) -> Task<> {
    Edge* device = co_await session.open(std::move(storage), true);
    if (device->size() < options.size)
      co_await Error(Errc::no_space, fmt::format("'{}' has {} bytes, the image needs {}", name, device->size(), options.size));
  };
  co_await in_session<void>(reactor, body, options.interrupted);
}

Error no_format(const std::string& backing) {
  return Error(Errc::invalid_argument, fmt::format("Backing file '{}' specified without its format; give -F raw or -F qcow2", backing));
}

// What cannot be followed to its end fails where it is opened.
Task<> check_known_chain(Reactor& reactor, ImageName below, std::string image) {
  auto chain = co_await chain_of(reactor, below).result();
  if (!chain) chain = std::vector<ImageName>{std::move(below)};
  co_await check_no_loop(reactor, *std::move(chain), std::move(image));
}

}  // namespace

Task<> make_image(Reactor& reactor, std::string path, std::string format, FormatOptions options, std::string data_path) {
  const bool is_raw = format == "raw";
  const std::uint64_t file_size = is_raw ? options.qcow2.size : 0;
  co_await create_file(reactor, path, file_size, options.preallocation, options.qcow2.interrupted);
  if (is_raw) co_return;
  if (!data_path.empty()) co_await create_file(reactor, data_path, 0, FilePreallocation::off);
  co_await write_header(reactor, file_at(path), std::move(options.qcow2), std::move(data_path));
}

Task<> make_image_on(Reactor& reactor, std::string name, std::string format, FormatOptions options) {
  Json storage = co_await describe_storage(reactor, name);
  if (format == "raw") co_return co_await check_room(reactor, name, std::move(storage), options.qcow2);
  if (!options.qcow2.data_file.empty())
    co_await Error(Errc::unsupported, fmt::format("'{}': only an image that is a file can have an external data file", name));
  co_await write_header(reactor, std::move(storage), std::move(options.qcow2), std::string());
}

Task<bool> is_file_name(Reactor& reactor, std::string name) {
  const auto path = local_path(name);
  if (!path) co_return false;
  const auto info = co_await fs::stat(reactor, *path).result();
  co_return !info || info->type == FileInfo::Type::regular;
}

Task<ImageName> check_backing(Reactor& reactor, std::string image, std::string backing, std::string backing_format) {
  if (backing_format.empty()) co_await no_format(backing);
  auto below = co_await backing_of(reactor, image, backing, backing_format).result();
  if (!below) co_await below.error().with_context(fmt::format("Could not open backing file '{}'", backing));
  auto chain = co_await chain_of(reactor, *below).result();
  if (!chain) co_await chain.error().with_context(fmt::format("Could not open backing file '{}'", backing));
  co_await check_no_loop(reactor, *std::move(chain), std::move(image));
  co_return *std::move(below);
}

Task<> check_unchecked_backing(Reactor& reactor, std::string image, std::string backing, std::string backing_format) {
  if (backing_format.empty()) co_await no_format(backing);
  auto below = co_await backing_of(reactor, image, backing, backing_format).result();
  if (below) co_await check_known_chain(reactor, *std::move(below), std::move(image));
}

}  // namespace tidemark::cli
