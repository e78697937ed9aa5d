// Making a store, and opening one after a clean close or a crash.
#include "tracking/store.hpp"

namespace tidemark::tracking {

Task<std::unique_ptr<TrackingStore>> TrackingStore::create(BlockNode& node, StoreOptions options) {
  auto store = std::make_unique<TrackingStore>(node, std::move(options));
  Result<> made = co_await store->make().result();
  if (made) {
    store->free_unused();
    store->start();
    made = co_await store->checkpoint(Depth::plain).result();
    if (made) co_return std::move(store);
    co_await store->stop();
    (void)co_await store->file_.unlink().result();
  }
  co_await store->file_.close();
  co_await made.error();
}

// A file with no root, which claims nothing.
Task<> TrackingStore::make() {
  Superblock root;
  root.store_id = home_.reactor().backend().random();
  root.log_bytes = options_.log_bytes;
  root.layer = node_.driver().name();
  root.boot_id = co_await boot_id(home_.reactor());
  root.image = co_await identify(home_.reactor(), options_.image, options_.stable_id);
  root.lost = true;
  co_await file_.open(home_.reactor(), options_.path, true);
  const auto there = co_await file_.read_root();
  if (there && there->layer != root.layer)
    co_await Error(Errc::busy, "tracking store '" + options_.path + "' belongs to the '" + there->layer + "' node of the image");
  const Result<> formatted = co_await file_.format(root.log_bytes).result();
  if (!formatted) {
    (void)co_await file_.unlink().result();
    co_await formatted.error();
  }
  root_ = std::move(root);
  catalogue_ = {};
}

Task<std::unique_ptr<TrackingStore>> TrackingStore::open(BlockNode& node, StoreOptions options, ImageIdentity image) {
  auto store = std::make_unique<TrackingStore>(node, std::move(options));
  const Result<bool> found = co_await store->recover(std::move(image)).result();
  if (found && *found) co_return std::move(store);
  co_await store->file_.close();
  if (!found) co_await found.error();
  co_return nullptr;
}

// False: there is no store of this node that could be read.
Task<bool> TrackingStore::recover(ImageIdentity image) {
  const Result<> opened = co_await file_.open(home_.reactor(), options_.path, false).result();
  if (!opened && opened.error().code() == Errc::not_found) co_return false;
  co_await unwrap(opened);
  std::optional<Superblock> root = co_await file_.read_root();
  if (!root) report(StoreReport::Kind::damaged, "tracking store '" + options_.path + "' has no valid root: its bitmaps are gone");
  if (!root || root->layer != node_.driver().name()) co_return false;
  auto catalogue = co_await file_.read_catalogue(*root).result();
  if (!catalogue && catalogue.error().code() == Errc::corrupt) {
    report(StoreReport::Kind::damaged, catalogue.error().message() + ": its bitmaps are gone");
    co_return false;
  }
  catalogue_ = co_await unwrap(std::move(catalogue));
  root_ = *std::move(root);
  version_ = root_.version;
  epoch_last_ = root_.log_epoch + 1;
  LoadedBitmaps bitmaps = co_await load(root_, image);
  for (const auto& entry : catalogue_.entries) node_.remember_size(entry.size_largest);
  for (auto& bitmap : bitmaps) node_.bitmaps().insert(std::move(bitmap));
  root_.image = std::move(image);
  root_.boot_id = co_await boot_id(home_.reactor());
  free_unused();
  start();
  Task<> begun = as_stored_ ? resume() : checkpoint(Depth::plain);
  const Result<> done = co_await std::move(begun).result();
  if (!done) co_await fail(done.error());
  co_return true;
}

Task<LoadedBitmaps> TrackingStore::load(const Superblock& root, ImageIdentity image) {
  LoadedBitmaps bitmaps = co_await load_bitmaps(file_, root, catalogue_, options_.broken, as_stored_);
  as_stored_ = as_stored_ && root.clean;
  std::optional<std::string> why = co_await judge(root, std::move(image));
  if (!why && !root.clean) {
    const CrashTraces traces = co_await read_crash_traces(file_, root, options_.broken);
    mark_traces(bitmaps, traces, node_.size());
  }
  for (auto& bitmap : bitmaps) {
    std::optional<std::string> reason = why;
    if (!reason && bitmap->bits().size() != node_.size()) reason = "the disk's size changed while the store was closed";
    if (!reason || bitmap->inconsistent()) continue;
    as_stored_ = false;
    report(StoreReport::Kind::inconsistent, "bitmap '" + bitmap->name() + "' is inconsistent: " + *reason);
    bitmap->set_inconsistent(*reason);
  }
  for (auto& bitmap : bitmaps) bitmap->truncate(node_.size());
  co_return std::move(bitmaps);
}

// Why the bitmaps cannot be believed.
Task<std::optional<std::string>> TrackingStore::judge(const Superblock& root, ImageIdentity image) {
  if (auto why = difference(root.image, image, root.clean)) co_return why;
  if (root.clean || root.mode == Mode::power) co_return std::nullopt;
  if (root.mode == Mode::off) co_return "the image was not closed, and its tracking was off";
  const std::string boot = co_await boot_id(home_.reactor());
  if (boot.empty() || boot != root.boot_id) co_return "the host went down, and tracking was to survive the daemon's death only";
  co_return std::nullopt;
}

}  // namespace tidemark::tracking
