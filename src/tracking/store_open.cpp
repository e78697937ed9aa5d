// Making a store, and opening one after a clean close or a crash.
#include "tracking/store.hpp"

#include <algorithm>

namespace tidemark::tracking {
namespace {

// Not that of another store of the image.
std::uint32_t mark_of(std::uint64_t store_id) { return std::max<std::uint32_t>(1, static_cast<std::uint32_t>(store_id) >> 1); }

}  // namespace

Task<std::unique_ptr<TrackingStore>> TrackingStore::create(BlockNode& node, StoreOptions options, bool marks) {
  auto store = std::make_unique<TrackingStore>(node, std::move(options));
  store->marked_ = marks;
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

// A file with no root, which claims nothing.  One that takes the place of another is about the same image, whoever has the name by
// now, and has the number of the mark that is in the image.
Task<> TrackingStore::make() {
  const bool first = root_.store_id == 0;
  Superblock root;
  root.store_id = home_.reactor().backend().random();
  root.log_bytes = options_.log_bytes;
  root.mark = first ? mark_of(root.store_id) : root_.mark;
  root.layer = node_.driver().name();
  root.boot_id = co_await boot_id(home_.reactor());
  if (first) root.image = co_await identify(home_.reactor(), options_.image, options_.names);
  else root.image = root_.image;
  root.lost = true;
  co_await file_.open(home_.reactor(), options_.path, StoreFile::Use::make, links());
  co_await file_.check_ours(root);
  const auto there = co_await file_.read_root();
  if (there && there->layer != root.layer)
    co_await Error(Errc::busy, "tracking store '" + options_.path + "' belongs to the '" + there->layer + "' node of the image");
  if (first && there) co_await check_not_needed(*there);
  const Result<> formatted = co_await file_.format(root.log_bytes).result();
  if (!formatted) {
    (void)co_await file_.unlink().result();
    co_await formatted.error();
  }
  root_ = std::move(root);
  catalogue_ = {};
}

// It was not there when the node was opened, or not found: what it has nobody has seen.
Task<> TrackingStore::check_not_needed(const Superblock& there) {
  const auto catalogue = co_await file_.read_catalogue(there).result();
  if (!catalogue && catalogue.error().code() == Errc::corrupt) co_return;
  if (!catalogue) co_await catalogue.error();
  if (catalogue->entries.empty() && !catalogue->about_groups()) co_return;
  co_await Error(Errc::exists, "tracking store '" + options_.path + "' has bitmaps already, and was not found when the node was opened: "
                               "remove the node and add it again to have them, or remove '" + options_.path + "'");
}

Task<std::unique_ptr<TrackingStore>> TrackingStore::open(BlockNode& node, StoreOptions options, ImageIdentity image,
                                                         ImageRecord& record) {
  auto store = std::make_unique<TrackingStore>(node, std::move(options));
  const Result<bool> found = co_await store->recover(std::move(image), record).result();
  if (found && *found) co_return std::move(store);
  co_await store->file_.close();
  if (!found) co_await found.error();
  co_return nullptr;
}

Task<bool> TrackingStore::show(BlockNode& node, StoreOptions options, ImageIdentity image, ImageRecord& record) {
  TrackingStore store(node, std::move(options));
  const Result<bool> found = co_await store.find(StoreFile::Use::read).result();
  Result<> shown;
  if (found && *found) shown = co_await store.bring_back(std::move(image), record).result();
  co_await store.file_.close();
  if (!found && found.error().code() == Errc::busy) co_return false;
  if (!found) co_await found.error();
  co_await unwrap(shown);
  co_return *found;
}

// False: there is no store of this node that could be read.
Task<bool> TrackingStore::find(StoreFile::Use use) {
  const Result<> opened = co_await file_.open(home_.reactor(), options_.path, use, links()).result();
  if (!opened && opened.error().code() == Errc::not_found) co_return false;
  co_await unwrap(opened);
  std::optional<Superblock> root = co_await file_.read_root();
  if (!root) co_await report_no_root();
  if (!root || root->layer != node_.driver().name()) co_return false;
  auto catalogue = co_await file_.read_catalogue(*root).result();
  if (!catalogue && catalogue.error().code() == Errc::corrupt) {
    report(StoreReport::Kind::damaged, catalogue.error().message() + ": its bitmaps are gone");
    co_return false;
  }
  catalogue_ = co_await unwrap(std::move(catalogue));
  root_ = *std::move(root);
  co_return true;
}

// What is no store any more by its looks is not made anew.
Task<> TrackingStore::report_no_root() {
  const auto ours = co_await file_.looks_ours(options_.log_bytes).result();
  const std::string message = "tracking store '" + options_.path + "' has no valid root: its bitmaps are gone";
  const std::string_view then = ours && *ours ? "" : "; remove it, or name another 'store', for bitmaps to be persistent again";
  report(StoreReport::Kind::damaged, message + std::string(then));
}

Task<bool> TrackingStore::recover(ImageIdentity image, ImageRecord& record) {
  const bool found = co_await find(StoreFile::Use::write);
  if (!found) co_return false;
  version_ = root_.version;
  records_ = catalogue_.records;
  epoch_last_ = root_.log_epoch + 1;
  co_await bring_back(image, record);
  root_.image = std::move(image);
  // A root of an older program's; what it says of its mark is to stay true while that is there.
  const bool marked_by_older = record.marked && record.marked_by == 0;
  if (root_.mark == 0 && !marked_by_older) root_.mark = mark_of(root_.store_id);
  root_.boot_id = co_await boot_id(home_.reactor());
  free_unused();
  start();
  Task<> begun = as_stored_ ? resume() : checkpoint(Depth::plain);
  const Result<> done = co_await std::move(begun).result();
  if (!done) co_await fail(done.error());
  co_return true;
}

Task<> TrackingStore::bring_back(ImageIdentity image, ImageRecord& record) {
  LoadedBitmaps bitmaps = co_await load(root_, std::move(image), record);
  for (const auto& entry : catalogue_.entries) node_.remember_size(entry.size_largest);
  const bool first = node_.bitmaps().empty();            // the names of a catalogue differ
  for (auto& bitmap : bitmaps) {
    // One that was shown, when nothing could be written, as one that cannot be believed.
    const NodeBitmap* shown = first || record.can_mark ? nullptr : node_.bitmaps().find(bitmap->name());
    if (shown && shown->inconsistent() && !bitmap->inconsistent()) say_inconsistent(*bitmap, shown->inconsistent_reason());
    if (first) node_.bitmaps().insert(std::move(bitmap));
    else node_.bitmaps().bring_back(std::move(bitmap));
  }
}

Task<LoadedBitmaps> TrackingStore::load(const Superblock& root, ImageIdentity image, ImageRecord& record) {
  const std::optional<Catalogue> decided = co_await intended();
  const Catalogue& counts = decided ? *decided : catalogue_;
  const std::optional<std::string> why = co_await judge(root, std::move(image), record);
  // What cannot be believed is not read, nor what is beyond the disk.
  const std::uint64_t loaded = why ? 0 : node_.size();
  LoadedBitmaps bitmaps = co_await load_bitmaps(file_, root, counts, loaded, options_.broken, as_stored_);
  as_stored_ = as_stored_ && root.clean && !catalogue_.intent;
  // The mark comes before anything is written.  A crash before it finds that what the image holds says the same, or that nobody
  // can tell.
  marked_ = record.can_mark;
  if (why) co_return give_way(std::move(bitmaps), root, *why, record);
  record.bitmaps.clear();
  if (!root.clean) {
    const CrashTraces traces = co_await read_crash_traces(file_, root, options_.broken);
    mark_traces(bitmaps, traces, node_.size());
  }
  for (auto& bitmap : bitmaps) {
    if (bitmap->bits().size() == node_.size() || bitmap->inconsistent()) continue;
    say_inconsistent(*bitmap, "the disk's size changed while the store was closed");
  }
  for (auto& bitmap : bitmaps) bitmap->truncate(node_.size());
  co_return std::move(bitmaps);
}

void TrackingStore::say_inconsistent(NodeBitmap& bitmap, const std::string& why) {
  as_stored_ = false;
  report(StoreReport::Kind::inconsistent, "bitmap '" + bitmap.name() + "' is inconsistent: " + why);
  bitmap.set_inconsistent(why);
}

// What the image holds counts.  Who closed it after us kept what it held, so what is gone was removed; else nobody knows.
LoadedBitmaps TrackingStore::give_way(LoadedBitmaps ours, const Superblock& root, const std::string& why, ImageRecord& record) {
  as_stored_ = false;
  const bool kept = root.clean && root.digest != 0 && !record.dead;
  LoadedBitmaps bitmaps;
  for (auto& bitmap : ours) {
    const auto held = record.find(bitmap->name());
    const bool there = held != record.bitmaps.end();
    if (there && bitmap->follows()) (*held)->set_follows(true);    // of which the image says nothing, nor of this
    if (there) (*held)->set_carried(bitmap->carried());
    if (there ? !(*held)->inconsistent() : kept) continue;
    if (there) record.bitmaps.erase(held);
    if (!bitmap->inconsistent()) say_inconsistent(*bitmap, why);
    bitmap->truncate(node_.size());
    bitmaps.push_back(std::move(bitmap));
  }
  if (!record.bitmaps.empty()) node_.remember_size(max_disk_size);      // nobody knows how large the disk has been
  for (auto& bitmap : record.bitmaps) bitmaps.push_back(std::move(bitmap));
  record.bitmaps.clear();
  return bitmaps;
}

// Why the bitmaps cannot be believed.
Task<std::optional<std::string>> TrackingStore::judge(const Superblock& root, ImageIdentity image, const ImageRecord& record) {
  if (!options_.distrusted.empty()) co_return options_.distrusted;
  const bool closed = root.clean || root.closed;
  const std::string boot = co_await boot_id(home_.reactor());
  const bool same_boot = !boot.empty() && boot == root.boot_id;
  // A store in the same file system goes back in time with the image.
  const FileInfo store = co_await file_.file().stat();
  const bool mounted = same_boot && !closed && store.device != image.device;
  // Of a device: its samples are where the last session has written.
  if (closed && image.is_device && image.size == root.image.size)
    image = co_await identify_by(home_.reactor(), options_.image, std::move(image), root.image.canaries);
  if (auto why = difference(root.image, image, closed, mounted)) co_return why;
  if (root.clean && root.digest != 0 && root.digest != record.digest)
    co_return "the image's own bitmaps are not those that it was closed with";
  if (root.clean) co_return std::nullopt;
  const bool ours = record.marked && root.mark == record.marked_by;
  const bool visited = root.marked ? !ours : record.closed();
  if (visited && keeps(Rule::mark_image)) co_return "another program has opened the image for writing since";
  if (root.mode == Mode::power) co_return std::nullopt;
  if (root.mode == Mode::off) co_return "the image was not closed, and its tracking was off";
  if (!same_boot) co_return "the host went down, and tracking was to survive the daemon's death only";
  co_return std::nullopt;
}

}  // namespace tidemark::tracking
