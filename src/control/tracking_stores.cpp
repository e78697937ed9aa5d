#include "control/tracking_stores.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "tracking/store.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;
using tracking::StoreOptions;
using tracking::TrackingStore;

constexpr const char* device_stores = "/var/lib/tidemark/stores";

// The storage that a node's content lies in, and whether all of it is the node's; null when it has none that
// lasts.  Filters are not tracked: what is below them is.
BlockNode* storage_of(BlockNode& node) {
  const std::string_view driver = node.driver().name();
  if (driver == "file" || driver == "host_device") return &node;
  if (driver != "raw" && driver != "qcow2") return nullptr;
  Edge* file = node.child(Role::file);
  return file && !file->node().child(Role::file) ? storage_of(file->node()) : nullptr;
}

bool is_window(const BlockNode& node, const BlockNode& storage) {
  return node.driver().name() == "raw" && node.size() != storage.size();
}

// A name of the device that stays with it from boot to boot.
std::string stable_id_of(const std::string& device) {
  std::error_code error;
  const files::path real = files::canonical(device, error);
  std::vector<std::string> names;
  for (files::directory_iterator at("/dev/disk/by-id", error), end; !error && at != end; at.increment(error)) {
    std::error_code broken;
    if (files::canonical(at->path(), broken) == real && !broken) names.push_back(at->path().filename().string());
  }
  return names.empty() ? std::string() : *std::min_element(names.begin(), names.end());
}

Task<StoreOptions> options_of(BlockNode& node, BlockNode& storage) {
  const TrackingOptions& given = node.options().tracking;
  StoreOptions options;
  options.mode = given.mode;
  options.suspect_budget = node.size() / 100 * given.suspect_budget;
  options.path = given.store;
  options.log_bytes = node.graph().workings().tracking_log_bytes;
  options.broken = node.graph().workings().broken;
  options.report = [&node](const TrackingReport& report) { node.graph().tell_tracking(node.name(), report); };
  const std::string name = (co_await storage.driver().info()).filename;
  std::error_code error;
  const files::path real = files::canonical(name, error);
  options.image = error ? name : real.string();
  if (storage.driver().name() == "host_device") {
    options.stable_id = stable_id_of(options.image);
    if (options.path.empty() && !options.stable_id.empty()) options.path = fmt::format("{}/{}", device_stores, options.stable_id);
  } else if (options.path.empty()) {
    options.path = options.image + ".tidemark";
  }
  co_return std::move(options);
}

Task<> open_store(BlockNode& node, BlockNode& storage, StoreOptions options) {
  const bool there = co_await fs::exists(node.reactor(), options.path);
  if (!there) co_return;
  if (is_window(node, storage))
    co_await Error(Errc::unsupported, fmt::format("'{}' has a tracking store for all of it, and the node shows a part; remove '{}' "
                                                  "to go on without its bitmaps", options.image, options.path));
  auto image = co_await tracking::identify(node.reactor(), options.image, options.stable_id);
  const std::string path = options.path;
  auto store = co_await TrackingStore::open(node, std::move(options), std::move(image)).result();
  if (!store && store.error().code() != Errc::busy)
    co_await Error(store.error().code(), fmt::format("{}; remove '{}' to go on without its bitmaps", store.error().message(), path));
  node.set_tracking(co_await unwrap(std::move(store)));
}

}  // namespace

Task<> open_tracking(BlockNode& node) {
  BlockNode* storage = storage_of(node);
  if (!storage || node.read_only()) co_return;
  StoreOptions options = co_await options_of(node, *storage);
  if (!options.path.empty()) co_await open_store(node, *storage, std::move(options));
}

Task<> ensure_tracking(BlockNode& node) {
  if (node.tracking()) co_return;
  const auto refuse = [&](std::string_view why) {
    return Error(Errc::unsupported, fmt::format("bitmaps on node '{}' cannot be persistent: {}", node.name(), why));
  };
  BlockNode* storage = storage_of(node);
  if (!storage) co_await refuse("it is no image in a file or on a block device");
  if (node.read_only()) co_await refuse("it is read-only");
  if (is_window(node, *storage)) co_await refuse("it shows a part of its image only");
  StoreOptions options = co_await options_of(node, *storage);
  if (options.path.empty()) co_await refuse("its device has no identity in /dev/disk/by-id; name a 'store' in its 'tracking'");
  if (options.path.starts_with(device_stores)) {
    std::error_code error;
    files::create_directories(device_stores, error);
  }
  auto store = co_await TrackingStore::create(node, std::move(options)).result();
  if (!store) co_await refuse(store.error().message());
  node.set_tracking(*std::move(store));
}

Task<> save_tracking(BlockNode& node) {
  if (node.tracking() && node.graph().keeps(Rule::save_before_reply)) co_await node.tracking()->save();
}

Task<> forget_dropped(BlockNode& node) {
  const Result<> saved = co_await save_tracking(node).result();
  if (!saved)
    node.graph().tell_tracking(node.name(), {TrackingReport::Kind::failed,
                                             "what bitmaps have dropped comes back after a crash: " + saved.error().message()});
}

}  // namespace tidemark
