#include "control/nodes/tracking_stores.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/paths.hpp"
#include "block/checkpoints.hpp"
#include "control/nodes/auto_read_only.hpp"
#include "control/nodes/device_stores.hpp"
#include "control/nodes/image_bitmaps.hpp"
#include "control/nodes/image_tracking.hpp"
#include "control/nodes/nameless_devices.hpp"
#include "storage/file_driver.hpp"
#include "tracking/device_names.hpp"
#include "tracking/distrust.hpp"

namespace tidemark {
namespace {

namespace files = std::filesystem;
using tracking::ImageRecord;
using tracking::StoreOptions;
using tracking::TrackingStore;

constexpr const char* no_identity = "its device has no name that stays with it, in /dev/disk/by-id or by what the kernel tells";

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

// A device says nothing of who has written it, and another host has a store of its own.
std::string why_distrusted(BlockNode& node, const BlockNode& storage, OpenedAs opened) {
  if (opened != OpenedAs::active_again || image_with_bitmaps(node) || storage.driver().name() != "host_device") return {};
  return "the node was inactive, and a device does not tell whether other programs have written it";
}

Task<std::string> path_of(BlockNode& storage) {
  const ImageInfo info = co_await storage.driver().info();
  co_return real_path(info.filename);
}

// One that has no name yet may get it from udev.
Task<> await_names(BlockNode& storage) {
  const std::string device = co_await path_of(storage);
  const auto number = number_of_device(device);
  if (!number) co_return;
  const auto names = co_await names_of_device(storage.reactor(), device);
  if (names.empty()) co_await await_udev(storage.reactor(), udev_directory, *number);
}

Task<> tell_distrust(BlockNode& storage, std::string path, std::string device) {
  constexpr const char* why = "a device of its size that had no name was opened for writing while no device had this one's name";
  const auto told = co_await tracking::distrust(storage.reactor(), path, why).result();
  if ((told && !*told) || (!told && told.error().code() == Errc::busy)) co_return;
  const std::string message = fmt::format("'{}' has no name, and may be the device of tracking store '{}', which is not there", device,
                                          path);
  const TrackingReport report{TrackingReport::Kind::inconsistent,
                              message + (told ? ": its bitmaps are inconsistent from now on"
                                              : ": that could not be written to it: " + told.error().message())};
  storage.graph().tell(&Graph::Listeners::tracking, storage.name(), report);
}

// What is written to a device that has no name is missing from the store that it has when it has its name.
Task<> distrust_stores_of_nameless(BlockNode& storage, std::string device) {
  Reactor& reactor = storage.reactor();
  const auto info = co_await fs::stat(reactor, device).result();
  if (!info) co_return;
  const std::string disk = co_await tracking::disk_of(reactor, tracking::told_of(*info));
  const auto loop = co_await fs::exists(reactor, disk + "/loop/backing_file").result();
  const bool of_loop = !loop || *loop;
  std::vector<std::string> nobody;
  auto stores = co_await stores_of_absent(reactor, device_stores, storage.size(), std::move(nobody), of_loop);
  if (stores.empty()) co_return;
  auto present = co_await names_present(reactor);
  stores = co_await stores_of_absent(reactor, device_stores, storage.size(), std::move(present), of_loop);
  for (const std::string& path : stores) co_await tell_distrust(storage, path, device);
}

struct Place {
  StoreOptions options;
  std::vector<std::string> others;        // stores of the same device
  std::string unreadable;                 // why they cannot be read
};

std::string why_two(const std::string& path, const Place& place) {
  if (place.unreadable.empty()) return fmt::format("the device had two tracking stores, '{}' and '{}'", path, place.others.front());
  return fmt::format("the device had another tracking store than '{}', which cannot be read: {}", path, place.unreadable);
}

// Where the node's bitmaps are, or would be.
Task<Place> place_of(BlockNode& node, BlockNode& storage, OpenedAs opened = OpenedAs::added) {
  const TrackingOptions& given = node.options().tracking;
  Place place;
  StoreOptions& options = place.options;
  options.mode = given.mode;
  options.suspect_budget = node.size() / 100 * given.suspect_budget;
  options.path = given.store;
  options.named = !given.store.empty();
  options.log_bytes = node.graph().workings().tracking_log_bytes;
  options.broken = node.graph().workings().broken;
  options.image = co_await path_of(storage);
  if (storage.driver().name() == "host_device") {
    options.names = co_await names_of_device(node.reactor(), options.image);
    DeviceStore found;
    if (options.path.empty()) found = co_await store_of_device(node.reactor(), device_stores, options.names);
    if (options.path.empty()) options.path = found.path;
    place.others = std::move(found.others);
    place.unreadable = std::move(found.unreadable);
  } else if (options.path.empty()) {
    options.path = store_beside(options.image);
  }
  options.distrusted = why_distrusted(node, storage, opened);
  if (!place.others.empty()) options.distrusted = why_two(options.path, place);
  co_return std::move(place);
}

// What became of one, and of its bitmaps.
std::string removed(const Result<std::vector<std::string>>& gone) {
  if (!gone) return "it could not be removed: " + gone.error().message();
  if (gone->empty()) return "it was removed";
  return fmt::format("it was removed, and with it its bitmaps '{}'", fmt::join(*gone, "', '"));
}

// When the one that is open says on the disk that its bitmaps are not to be believed.
Task<> remove_others(BlockNode& node, const Place& place) {
  for (const std::string& path : place.others) {
    // A copy that somebody has made is theirs.
    const auto& names = place.options.names;
    const bool named = std::find(names.begin(), names.end(), path.substr(path.rfind('/') + 1)) != names.end();
    Result<std::vector<std::string>> gone = Error(Errc::exists, "it has none of the device's names; move it elsewhere");
    if (named) gone = co_await remove_other_store(node.reactor(), path).result();
    const TrackingReport report{TrackingReport::Kind::damaged,
                                fmt::format("'{}' is another tracking store of '{}': {}", path, place.options.image, removed(gone))};
    node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
  }
}

Error with_way_out(const Error& error, const StoreOptions& options) {
  if (error.code() == Errc::busy) return error;
  return Error(error.code(), fmt::format("{}; remove '{}' to go on without its bitmaps", error.message(), options.path));
}

Task<bool> is_there(BlockNode& node, std::string path) {
  if (path.empty()) co_return false;
  co_return co_await fs::exists(node.reactor(), path);
}

// What others have written to a device counts when it is in it: the last of them need not have closed it.
Task<tracking::ImageIdentity> identify_at_open(Reactor& reactor, const BlockNode& storage, const StoreOptions& options) {
  if (storage.driver().name() != "host_device") return tracking::identify(reactor, options.image, options.names);
  return tracking::identify_durably(reactor, options.image, options.names);
}

// Null when there is none.
Task<std::unique_ptr<TrackingStore>> open_store(BlockNode& node, BlockNode& storage, Place place, ImageRecord& record) {
  const StoreOptions& options = place.options;
  const bool there = co_await is_there(node, options.path);
  if (!there) co_return nullptr;
  if (is_window(node, storage))
    co_await Error(Errc::unsupported, fmt::format("'{}' has a tracking store for all of it, and the node shows a part; remove '{}' "
                                                  "to go on without its bitmaps", options.image, options.path));
  auto image = co_await identify_at_open(node.reactor(), storage, options);
  auto store = co_await TrackingStore::open(node, options, std::move(image), record).result();
  if (!store) co_await with_way_out(store.error(), options);
  if (*store && !(*store)->failed()) co_await remove_others(node, place);
  co_return *std::move(store);
}

// An image does not say how large its disk has been: whatever is added to it is marked.
void show_bitmaps(BlockNode& node, ImageRecord& record) {
  if (!record.bitmaps.empty()) node.remember_size(max_disk_size);
  for (auto& bitmap : record.bitmaps) node.bitmaps().bring_back(std::move(bitmap));
  record.bitmaps.clear();
}

// Of an image that nothing stands on, and that is going to be written, no overlay has the bitmaps.
void show_as_disk(BlockNode& node) {
  const auto is_node = [](const Edge* user) { return user->parent() != nullptr; };
  if (std::any_of(node.parents().begin(), node.parents().end(), is_node)) return;
  for (const auto& bitmap : node.bitmaps().all()) bitmap->set_carried(false);
}

// What was shown is not kept any more: its store was taken away, or is not found.  Nobody would know of what is written now.
void give_up_unkept(BlockNode& node, bool has_store, bool in_image) {
  const std::string why = "nothing keeps it any more: its tracking store was not there when the disk was to be written again";
  const auto all = node.bitmaps().all();
  for (const auto& shown : all) {
    if (!shown->persistent() || (!shown->read_only() && (has_store || in_image))) continue;
    auto unkept = std::make_shared<NodeBitmap>(shown->name(), node.size(), static_cast<std::uint32_t>(shown->granularity()));
    unkept->set_follows(shown->follows());
    unkept->set_inconsistent(shown->inconsistent() ? shown->inconsistent_reason() : why);
    const TrackingReport report{TrackingReport::Kind::inconsistent,
                                fmt::format("bitmap '{}' is inconsistent: {}", shown->name(), unkept->inconsistent_reason())};
    if (!shown->inconsistent()) node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
    node.bitmaps().bring_back(std::move(unkept));
  }
}

// What cannot be read is not shown.
Task<> show_read_only(BlockNode& node, BlockNode* storage, ImageRecord record, OpenedAs opened) {
  if (storage && !is_window(node, *storage)) {
    const Place place = co_await place_of(node, *storage, opened);
    const StoreOptions& options = place.options;
    const bool there = co_await is_there(node, options.path);
    if (there) {
      auto image = co_await identify_at_open(node.reactor(), *storage, options);
      const auto shown = co_await TrackingStore::show(node, options, std::move(image), record).result();
      const TrackingReport report{TrackingReport::Kind::damaged, shown ? "" : shown.error().message()};
      if (!shown) node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
    }
  }
  show_bitmaps(node, record);
  for (const auto& bitmap : node.bitmaps().all()) bitmap->set_read_only();
}

// The store knows the image by its file.
Task<> check_named(BlockNode& storage) {
  auto& driver = static_cast<FileDriver&>(storage.driver());
  const bool named = co_await driver.named();
  if (!named) co_await Error(Errc::unsupported, fmt::format("'{}' is another file by now than the one that is open", driver.path()));
}

// Bitmaps that the image says nothing sensible of are lost.
Task<ImageRecord> record_of(BlockNode& node, Qcow2Driver* image) {
  if (!image) co_return ImageRecord();
  auto record = co_await read_image_bitmaps(*image).result();
  if (record) co_return *std::move(record);
  if (record.error().code() != Errc::corrupt) co_await record.error();
  const TrackingReport report{TrackingReport::Kind::damaged, record.error().message() + ": its bitmaps are gone"};
  node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
  if (!node.read_only()) co_await image->drop_bitmaps();
  ImageRecord none;
  none.can_mark = true;
  none.marked = image->tracked();
  none.marked_by = image->tracked_by();
  none.dead = true;
  co_return std::move(none);
}

// A store for bitmaps that the image has and that were not ours so far; null, and told, when it cannot have one.
Task<std::unique_ptr<TrackingStore>> store_for_found(BlockNode& node, BlockNode* storage) {
  Result<std::unique_ptr<TrackingStore>> store = Error(Errc::unsupported, "it is no image in a file or on a block device");
  if (storage) {
    const Place place = co_await place_of(node, *storage);
    const auto named = co_await check_named(*storage).result();
    if (place.options.path.empty()) store = Error(Errc::unsupported, no_identity);
    else if (!named) store = named.error();
    else store = co_await TrackingStore::create(node, place.options, true).result();
    if (store) co_await remove_others(node, place);
  }
  if (store) co_return *std::move(store);
  const TrackingReport report{TrackingReport::Kind::failed, fmt::format("the bitmaps of node '{}' will be inconsistent after a crash: {}",
                                                                        node.name(), store.error().message())};
  node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
  co_return nullptr;
}

// For a node in use, which goes on without it if it fails.
Task<> begin_tracking_image(BlockNode& node, Qcow2Driver& image, std::unique_ptr<TrackingStore> store) {
  auto tracking = std::make_unique<ImageTracking>(node, image, std::move(store));
  const Result<> taken = co_await tracking->take_over().result();
  if (!taken) {
    (void)co_await tracking->before_close().result();
    (void)co_await tracking->after_close().result();
    co_await taken.error();
  }
  node.set_tracking(std::move(tracking));
}

}  // namespace

Task<> open_tracking(BlockNode& node, OpenedAs opened) {
  BlockNode* storage = storage_of(node);
  Qcow2Driver* image = image_with_bitmaps(node);
  if (!storage && !image) co_return;
  // Nobody waits for a node that is being added.
  if (opened == OpenedAs::added && storage == &node && node.driver().name() == "host_device") co_await await_names(node);
  ImageRecord record = co_await record_of(node, image);
  if (node.read_only()) co_return co_await show_read_only(node, storage, std::move(record), opened);
  std::unique_ptr<TrackingStore> store;
  // The store may be of the storage's own bitmaps.
  if (storage && (storage == &node || !storage->tracking())) {
    Place place = co_await place_of(node, *storage, opened);
    const bool nameless = storage == &node && storage->driver().name() == "host_device" && place.options.names.empty();
    if (nameless) co_await distrust_stores_of_nameless(*storage, place.options.image);
    store = co_await open_store(node, *storage, std::move(place), record);
  }
  show_bitmaps(node, record);
  give_up_unkept(node, store != nullptr, image != nullptr);
  end_older(node.bitmaps());
  show_as_disk(node);
  const auto is_kept = [](const auto& bitmap) { return bitmap->persistent(); };
  const bool found = image && std::ranges::any_of(node.bitmaps().all(), is_kept);
  if (!store && found) store = co_await store_for_found(node, storage);
  if (image && (store || found)) {
    auto owned = std::make_unique<ImageTracking>(node, *image, std::move(store));
    ImageTracking& tracking = *owned;
    node.set_tracking(std::move(owned));
    co_return co_await tracking.take_over();
  }
  if (image && image->tracked()) co_await image->set_untracked();
  node.set_tracking(std::move(store));
}

Task<> drop_tracking(BlockNode& node) {
  const std::unique_ptr<NodeTracking> begun = node.take_tracking();
  if (!begun) co_return;
  (void)co_await begun->before_close().result();
  (void)co_await begun->after_close().result();
}

Task<> ensure_tracking(BlockNode& node) {
  if (!node.tracking()) co_await begin_to_write(node);
  const bool at_ends_only = node.options().tracking.mode == TrackingMode::off;
  if (node.tracking() && (at_ends_only || node.tracking()->survives_crashes())) co_return;
  const auto refuse = [&](std::string_view why) {
    return Error(Errc::unsupported, fmt::format("bitmaps on node '{}' cannot be persistent: {}", node.name(), why));
  };
  if (node.read_only()) co_await refuse("it is read-only");
  if (node.tracking())
    co_await refuse("no tracking store could be made when it was added, as an event said; add it again where one can, or with "
                    "'tracking.mode' 'off'");
  BlockNode* storage = storage_of(node);
  Qcow2Driver* image = image_with_bitmaps(node);
  if (!storage && image && at_ends_only) co_return co_await begin_tracking_image(node, *image, nullptr);
  if (!storage) co_await refuse("it is no image in a file or on a block device");
  if (is_window(node, *storage)) co_await refuse("it shows a part of its image only");
  const auto named = co_await check_named(*storage).result();
  if (!named) co_await refuse(named.error().message());
  const Place place = co_await place_of(node, *storage);
  if (place.options.path.empty()) co_await refuse(fmt::format("{}; name a 'store' in its 'tracking'", no_identity));
  if (place.options.path.starts_with(device_stores)) {
    std::error_code error;
    files::create_directories(device_stores, error);
  }
  auto store = co_await TrackingStore::create(node, place.options, image != nullptr).result();
  if (!store) co_await refuse(store.error().message());
  co_await remove_others(node, place);
  if (image) co_await begin_tracking_image(node, *image, *std::move(store));
  else node.set_tracking(*std::move(store));
}

Task<> ensure_tracking_ahead(BlockNode& node) {
  if (node.active()) co_await ensure_tracking(node);
}

std::string store_beside(const std::string& image) { return real_path(image) + ".tidemark"; }

// After an orderly end the image has them, or had; version 2 cannot.
Task<std::vector<std::string>> bitmaps_left_over(Reactor& reactor, const qcow2::Header& image, std::string path) {
  std::vector<std::string> left;
  if (image.geometry.version >= 3 && !image.has(qcow2::Autoclear::tracked)) co_return std::move(left);
  std::string store = store_beside(path);
  auto found = co_await bitmaps_in_store(reactor, std::move(store)).result();
  if (found) left = *std::move(found);
  co_return std::move(left);
}

Task<> remove_store_left_over(Reactor& reactor, std::string image) {
  std::string store = store_beside(image);
  (void)co_await remove_other_store(reactor, std::move(store)).result();
}

Task<> save_tracking(BlockNode& node) {
  if (node.tracking() && node.graph().keeps(Rule::save_before_reply)) co_await node.tracking()->save();
}

Task<> forget_dropped(BlockNode& node) {
  const Result<> saved = co_await save_tracking(node).result();
  if (saved) co_return;
  const TrackingReport report{TrackingReport::Kind::failed,
                              "what bitmaps have dropped comes back after a crash: " + saved.error().message()};
  node.graph().tell(&Graph::Listeners::tracking, node.name(), report);
}

}  // namespace tidemark
