#include "control/nodes/nameless_devices.hpp"

#include <algorithm>

#include "tracking/store_file.hpp"

namespace tidemark {
namespace {

using tracking::StoreFile;
using tracking::Superblock;

constexpr Duration patience = std::chrono::seconds(3), pause = std::chrono::milliseconds(20);
constexpr std::size_t name_max = 256;                    // that a store keeps

Task<bool> is_there(Reactor& reactor, std::string path) {
  const auto there = co_await fs::exists(reactor, std::move(path)).result();
  co_return there && *there;
}

// Nothing of one that cannot be read, or that somebody has open.
Task<std::optional<Superblock>> root_of_free(Reactor& reactor, std::string path) {
  StoreFile file;
  const auto opened = co_await file.open(reactor, std::move(path), StoreFile::Use::look, StoreFile::Links::refuse).result();
  if (!opened) co_return std::nullopt;
  const auto free = co_await file.try_share().result();
  auto root = co_await file.read_root().result();
  co_await file.close();
  if (!free || !*free || !root) co_return std::nullopt;
  co_return *std::move(root);
}

// The device mapper, md and loop devices always have such a name, as the kernel tells it at once; but a loop device's file may be one
// that this process does not see.
bool may_lose_name(std::string_view name, bool of_loop) {
  if (name.starts_with("dm-uuid-mpath-")) return true;
  if (name.starts_with("loop-")) return of_loop;
  return !name.starts_with("dm-") && !name.starts_with("md-uuid-");
}

}  // namespace

Task<> await_udev(Reactor& reactor, std::string udev, DeviceNumber device) {
  const std::string known = udev + "/data/b" + std::to_string(device.major) + ':' + std::to_string(device.minor);
  const Instant until = reactor.now() + patience;
  for (;;) {
    const bool runs = co_await is_there(reactor, udev + "/control");
    const bool known_to_it = co_await is_there(reactor, known);
    if (!runs || known_to_it || reactor.now() >= until) co_return;
    co_await reactor.sleep(pause);
  }
}

Task<std::vector<std::string>> stores_of_absent(Reactor& reactor, std::string directory, std::uint64_t size,
                                                std::vector<std::string> present, bool of_loop) {
  std::vector<std::string> stores;
  const auto all = co_await fs::list(reactor, directory).result();
  if (!all) co_return std::move(stores);
  const auto is_present = [&](const std::string& name) {
    return std::any_of(present.begin(), present.end(), [&](const std::string& p) { return p == name || p.substr(0, name_max) == name; });
  };
  for (const std::string& file : *all) {
    const auto root = co_await root_of_free(reactor, directory + '/' + file);
    if (!root || !root->image.is_device || root->image.size != size || root->image.stable_id.empty()) continue;
    if (!may_lose_name(root->image.stable_id, of_loop)) continue;
    if (!is_present(file) && !is_present(root->image.stable_id)) stores.push_back(directory + '/' + file);
  }
  co_return std::move(stores);
}

}  // namespace tidemark
