#include "app/cli/image/shared_bytes.hpp"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "app/cli/image/names.hpp"
#include "io/file.hpp"

namespace tidemark::cli {
namespace {

namespace stdfs = std::filesystem;

constexpr std::size_t devices_max = 1000, name_max = 4096;

std::string device_of(std::string name) {
  std::replace(name.begin(), name.end(), '!', '/');
  return "/dev/" + name;
}

// One step down.
Task<std::vector<std::string>> parts_of(Reactor& reactor, std::string device) {
  std::vector<std::string> parts;
  std::error_code error;
  const stdfs::path told = stdfs::canonical("/sys/class/block" / stdfs::canonical(device, error).filename(), error);
  if (error || !stdfs::is_block_file(device, error)) co_return std::move(parts);
  auto file = co_await fs::read_all(reactor, told / "loop/backing_file", name_max).result();
  if (file) parts.push_back(file->substr(0, file->find('\n')));
  auto below = co_await fs::list(reactor, told / "slaves").result();
  if (below) std::transform(below->begin(), below->end(), std::back_inserter(parts), device_of);
  if (stdfs::exists(told / "partition", error)) parts.push_back(device_of(told.parent_path().filename()));
  co_return std::move(parts);
}

Task<bool> lies_in(Reactor& reactor, std::string device, std::string other) {
  std::vector<std::string> all{std::move(device)};
  for (std::size_t i = 0; i < all.size() && i < devices_max; ++i) {
    const std::string at = all[i];
    const bool same = co_await is_same_file(reactor, at, other);
    if (same) co_return true;
    const auto parts = co_await parts_of(reactor, at);
    all.insert(all.end(), parts.begin(), parts.end());
  }
  co_return false;
}

}  // namespace

Task<bool> share_bytes(Reactor& reactor, std::string one, std::string other) {
  const bool down = co_await lies_in(reactor, one, other);
  if (down) co_return true;
  co_return co_await lies_in(reactor, std::move(other), std::move(one));
}

}  // namespace tidemark::cli
