#include "app/cli/image/data_file.hpp"

#include <filesystem>

#include <fmt/format.h>

#include "app/cli/image/names.hpp"
#include "app/new_file.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

namespace file_system = std::filesystem;

file_system::path absolute(const std::string& path) {
  std::error_code error;
  const auto full = file_system::absolute(path, error);
  return (error ? file_system::path(path) : full).lexically_normal();
}

Result<DataFile> locate(const std::string& image, std::string given) {
  const auto path = local_path(image);
  if (!path) return Error(Errc::unsupported, fmt::format("'{}': only an image that is a file can have an external data file", image));
  if (given.find(':') < given.find('/')) return Error(Errc::unsupported, fmt::format("Data file '{}' is not a plain file name", given));
  const file_system::path directory = absolute(*path).parent_path();
  if (given.find('/') == std::string::npos)
    return DataFile{(file_system::path(*path).parent_path() / given).string(), std::move(given)};
  const file_system::path full = absolute(given);
  if (full.parent_path() != directory)
    return Error(Errc::invalid_argument, fmt::format("Data file '{}' has to lie beside the image, in '{}'", given, directory.string()));
  return DataFile{full.string(), full.string()};
}

}  // namespace

Task<DataFile> place_data_file(Reactor& reactor, std::string image, std::string given) {
  if (given.empty()) co_return DataFile{};
  DataFile data = co_await unwrap(locate(image, std::move(given)));
  const bool there = co_await fs::exists(reactor, data.path);
  if (there)
    co_await Error(Errc::exists, fmt::format("Data file '{}' exists; it may hold another image's data, and is not replaced", data.path));
  co_return data;
}

Task<> make_with_data_file(Reactor& reactor, std::string image, DataFile data,
                           std::function<Task<>(std::string image, std::string data)> make) {
  NewFile content = co_await NewFile::begin(reactor, data.path);
  co_await content.make_partial();           // which holds nothing when it fails
  auto into = [&](std::string partial) -> Task<> {
    co_await make(std::move(partial), content.partial());
    co_await content.publish();
  };
  const auto made = co_await make_file(reactor, std::move(image), into).result();
  if (!made) (void)co_await content.discard().result();
  (void)co_await content.let_go().result();
  co_await unwrap(made);
}

}  // namespace tidemark::cli
