#include "control/device_stores.hpp"

#include <algorithm>
#include <filesystem>

#include "tracking/device_names.hpp"
#include "tracking/store_file.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;
using tracking::StoreFile;
using tracking::Superblock;
using tracking::Telling;

std::vector<std::string> links_to(const std::string& device) {
  std::error_code error;
  const files::path real = files::canonical(device, error);
  std::vector<std::string> names;
  for (files::directory_iterator at("/dev/disk/by-id", error), end; !error && at != end; at.increment(error)) {
    std::error_code broken;
    if (files::canonical(at->path(), broken) == real && !broken) names.push_back(at->path().filename().string());
  }
  return names;
}

// Nothing where there is no store that can be read.
Task<std::optional<Superblock>> root_of(Reactor& reactor, std::string path) {
  StoreFile file;
  const Result<> opened = co_await file.open(reactor, std::move(path), StoreFile::Use::look).result();
  if (!opened) co_return std::nullopt;
  auto root = co_await file.read_root().result();
  co_await file.close();
  if (!root) co_return std::nullopt;
  co_return *std::move(root);
}

bool is_of(const Superblock& root, const std::vector<std::string>& names) {
  tracking::ImageIdentity now;
  now.names = names;
  return root.image.stable_id.empty() || tracking::has_name(now, root.image.stable_id);
}

}  // namespace

Task<std::vector<std::string>> names_of_device(Reactor& reactor, std::string device) {
  const auto info = co_await fs::stat(reactor, device).result();
  std::vector<std::string> names;
  if (info) names = co_await tracking::names_by_kernel(reactor, tracking::told_of(*info));
  const std::vector<std::string> links = links_to(device);
  names.insert(names.end(), links.begin(), links.end());
  co_return tracking::surest_first(std::move(names));
}

Task<DeviceStore> store_of_device(Reactor& reactor, std::string directory, std::vector<std::string> names) {
  std::vector<std::string> stores, damaged;
  for (const std::string& name : names) {
    std::string path = directory + '/' + name;
    const auto there = co_await fs::exists(reactor, path).result();
    if (there && !*there) continue;
    const std::optional<Superblock> root = co_await root_of(reactor, path);
    if (!root) damaged.push_back(std::move(path));
    else if (tracking::telling_of(name) < Telling::named || is_of(*root, names)) stores.push_back(std::move(path));
  }
  DeviceStore found;
  if (!stores.empty()) {
    found.path = stores.front();
    found.others.assign(stores.begin() + 1, stores.end());
  } else if (!damaged.empty()) {
    found.path = damaged.front();
  } else if (!names.empty()) {
    found.path = directory + '/' + names.front();
  }
  co_return std::move(found);
}

Task<> remove_other_store(Reactor& reactor, std::string path) {
  StoreFile file;
  co_await file.open(reactor, std::move(path), StoreFile::Use::write, StoreFile::Links::refuse);
  const Result<> gone = co_await file.unlink().result();
  co_await file.close();
  co_await unwrap(gone);
}

}  // namespace tidemark
