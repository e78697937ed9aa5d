#include "control/nodes/device_stores.hpp"

#include <algorithm>
#include <filesystem>

#include "tracking/device_names.hpp"
#include "tracking/store.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;
using tracking::StoreFile;
using tracking::Superblock;
using tracking::Telling;

// By the device's number: it may have been opened by another node than those that udev makes.
std::vector<std::string> links_to(DeviceNumber device) {
  std::error_code error;
  std::vector<std::string> names;
  for (files::directory_iterator at("/dev/disk/by-id", error), end; !error && at != end; at.increment(error))
    if (number_of_device(at->path().string()) == device) names.push_back(at->path().filename().string());
  return names;
}

// Links that lead nowhere are of devices that are away.
std::vector<std::string> links_present() {
  std::error_code error;
  std::vector<std::string> names;
  for (files::directory_iterator at("/dev/disk/by-id", error), end; !error && at != end; at.increment(error))
    if (number_of_device(at->path().string())) names.push_back(at->path().filename().string());
  return names;
}

struct Seen {
  std::string path;
  std::optional<Superblock> root;
  std::string unreadable;                 // why there is no root
};

Task<std::optional<Superblock>> read_root(Reactor& reactor, std::string path, StoreFile::Links links) {
  StoreFile file;
  co_await file.open(reactor, std::move(path), StoreFile::Use::look, links);
  auto root = co_await file.read_root().result();
  co_await file.close();
  co_return co_await unwrap(std::move(root));
}

// Nothing where there is no file.
Task<std::optional<Seen>> look_at(Reactor& reactor, std::string path, StoreFile::Links links = StoreFile::Links::follow) {
  auto root = co_await read_root(reactor, path, links).result();
  if (!root && root.error().code() == Errc::not_found) co_return std::nullopt;
  Seen seen;
  if (!root) seen.unreadable = root.error().message();
  else if (!*root) seen.unreadable = "'" + path + "' has no valid root";
  else seen.root = *std::move(root);
  seen.path = std::move(path);
  co_return std::move(seen);
}

bool knows(const Superblock& root, const std::vector<std::string>& names) {
  tracking::ImageIdentity now;
  now.names = names;
  return !root.image.stable_id.empty() && tracking::has_name(now, root.image.stable_id);
}

Task<std::vector<std::string>> bitmaps_of(StoreFile& file, const Superblock& root) {
  std::vector<std::string> bitmaps;
  const auto catalogue = co_await file.read_catalogue(root).result();
  for (std::size_t n = 0; catalogue && n < catalogue->entries.size(); ++n) bitmaps.push_back(catalogue->entries[n].name);
  co_return std::move(bitmaps);
}

// What a program of another time has made stays.
Task<std::vector<std::string>> remove_store(StoreFile& file) {
  std::vector<std::string> bitmaps;
  const auto root = co_await file.read_root();
  if (root) {
    bitmaps = co_await bitmaps_of(file, *root);
  } else {
    const bool ours = co_await file.looks_ours(tracking::StoreOptions().log_bytes);
    if (!ours) co_await Error(Errc::exists, "it is no tracking store");
  }
  co_await file.unlink();
  co_return std::move(bitmaps);
}

struct Found {
  std::vector<std::string> stores, unreadable;
  std::vector<Seen> strangers;            // under a name of the device's, and another's by what they know
  std::string why;                        // the first of these cannot be read
};

Task<Found> find_by_names(Reactor& reactor, std::string directory, std::vector<std::string> names) {
  Found found;
  for (const std::string& name : names) {
    auto seen = co_await look_at(reactor, directory + '/' + name);
    if (!seen) continue;
    const bool is_ours = seen->root && (seen->root->image.stable_id.empty() || knows(*seen->root, names));
    if (!seen->root && found.why.empty()) found.why = std::move(seen->unreadable);
    if (!seen->root) found.unreadable.push_back(std::move(seen->path));
    else if (is_ours) found.stores.push_back(std::move(seen->path));
    else if (tracking::telling_of(name) < Telling::named) found.strangers.push_back(*std::move(seen));
  }
  co_return std::move(found);
}

// Where no file has one of the names: a device is known by the surest name that it has had, which may have come after its store.
// Beside one that has, such a file is what somebody keeps of it.
Task<std::vector<std::string>> find_by_roots(Reactor& reactor, std::string directory, std::vector<std::string> names) {
  std::vector<std::string> stores;
  const auto all = co_await fs::list(reactor, directory).result();
  if (!all) co_return std::move(stores);
  for (const std::string& file : *all) {
    if (std::find(names.begin(), names.end(), file) != names.end()) continue;
    auto seen = co_await look_at(reactor, directory + '/' + file, StoreFile::Links::refuse);
    if (seen && seen->root && seen->root->image.is_device && knows(*seen->root, names)) stores.push_back(std::move(seen->path));
  }
  co_return std::move(stores);
}

// The device that it knows may have lost the name that it is known by.
Task<std::optional<std::string>> first_of_absent(Reactor& reactor, std::vector<Seen> strangers) {
  if (strangers.empty()) co_return std::nullopt;
  const std::vector<std::string> present = co_await names_present(reactor);
  for (const Seen& stranger : strangers)
    if (!knows(*stranger.root, present)) co_return stranger.path;
  co_return std::nullopt;
}

// For one that is to be made, where nothing is.
Task<std::string> free_path(Reactor& reactor, std::string path) {
  std::string free = path;
  for (int n = 2;; ++n) {
    const auto there = co_await fs::exists(reactor, free).result();
    if (!there || !*there) co_return std::move(free);
    free = path + '.' + std::to_string(n);
  }
}

}  // namespace

Task<std::vector<std::string>> names_of_device(Reactor& reactor, std::string device) {
  const auto info = co_await fs::stat(reactor, device).result();
  std::vector<std::string> names;
  if (!info) co_return std::move(names);
  const std::string told = tracking::told_of(*info);
  const auto shown = co_await tracking::file_of_loop(reactor, told, std::move(device));
  names = co_await tracking::names_by_kernel(reactor, told, shown);
  const std::vector<std::string> links = links_to(DeviceNumber{info->device_major, info->device_minor});
  names.insert(names.end(), links.begin(), links.end());
  co_return tracking::surest_first(std::move(names));
}

Task<std::vector<std::string>> names_present(Reactor& reactor) {
  std::vector<std::string> names = links_present();
  const auto devices = co_await fs::list(reactor, "/sys/class/block").result();
  if (!devices) co_return std::move(names);
  for (const std::string& device : *devices) {
    std::string node = "/dev/" + device;
    std::replace(node.begin(), node.end(), '!', '/');
    const std::string told = "/sys/class/block/" + device;
    const auto shown = co_await tracking::file_of_loop(reactor, told, std::move(node));
    const auto more = co_await tracking::names_by_kernel(reactor, told, shown);
    names.insert(names.end(), more.begin(), more.end());
  }
  co_return std::move(names);
}

Task<DeviceStore> store_of_device(Reactor& reactor, std::string directory, std::vector<std::string> names) {
  DeviceStore store;
  if (names.empty()) co_return std::move(store);
  Found found = co_await find_by_names(reactor, directory, names);
  if (found.stores.empty()) found.stores = co_await find_by_roots(reactor, directory, names);
  if (found.stores.empty()) {
    const auto stranger = co_await first_of_absent(reactor, std::move(found.strangers));
    if (stranger) found.stores.push_back(*stranger);
  }
  store.others = std::move(found.stores);
  store.others.insert(store.others.end(), found.unreadable.begin(), found.unreadable.end());
  if (store.others.empty()) {
    store.path = co_await free_path(reactor, directory + '/' + names.front());
    co_return std::move(store);
  }
  store.path = std::move(store.others.front());
  store.others.erase(store.others.begin());
  if (!store.others.empty()) store.unreadable = std::move(found.why);
  co_return std::move(store);
}

Task<std::vector<std::string>> bitmaps_in_store(Reactor& reactor, std::string path) {
  StoreFile file;
  co_await file.open(reactor, std::move(path), StoreFile::Use::look, StoreFile::Links::refuse);
  std::vector<std::string> bitmaps;
  const auto root = co_await file.read_root().result();
  if (root && *root) bitmaps = co_await bitmaps_of(file, **root);
  co_await file.close();
  co_return std::move(bitmaps);
}

Task<std::vector<std::string>> remove_other_store(Reactor& reactor, std::string path) {
  StoreFile file;
  co_await file.open(reactor, std::move(path), StoreFile::Use::write, StoreFile::Links::refuse);
  auto gone = co_await remove_store(file).result();
  co_await file.close();
  co_return co_await unwrap(std::move(gone));
}

}  // namespace tidemark
