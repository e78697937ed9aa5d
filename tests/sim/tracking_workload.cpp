#include "tests/sim/tracking_workload.hpp"

#include <algorithm>
#include <cstring>

#include "io/aligned.hpp"
#include "storage/file.hpp"
#include "task/finally.hpp"
#include "task/group.hpp"

namespace tidemark::sim {
namespace {

constexpr std::uint64_t sector = 512, writers = 3;
const std::string image = "/d/disk", store_path = "/d/disk.tidemark";

}  // namespace

tracking::StoreOptions TrackedNode::options() {
  tracking::StoreOptions options;
  options.path = store_path;
  options.image = image;
  options.mode = disk_.mode;
  options.log_bytes = disk_.log_bytes;
  options.broken = disk_.broken;
  return options;
}

bool TrackedNode::store_failed() const noexcept {
  const auto failed = [](const auto& report) { return report.kind == tracking::StoreReport::Kind::failed; };
  return std::any_of(reports_.begin(), reports_.end(), failed);
}

Task<> TrackedNode::open() {
  auto before = co_await tracking::identify(process_.reactor(), image);
  FileOptions file;
  file.filename = image;
  auto driver = co_await open_file(process_.reactor(), std::move(file));
  NodeOptions named;
  named.name = "disk";
  named.monitor_owned = true;
  node_ = co_await graph_.add(named, std::move(driver));
  tracking::ImageRecord record;
  record.can_mark = disk_.can_mark;
  record.marked = disk_.mark.has_value();
  record.marked_by = disk_.mark.value_or(0);
  auto store = co_await tracking::TrackingStore::open(*node_, options(), std::move(before), record).result();
  if (!store) {
    (void)co_await graph_.close_all().result();
    co_await store.error();
  }
  node_->set_tracking(*std::move(store));
  const Permissions all{Permissions::consistent_read | Permissions::write | Permissions::resize, Permissions::all};
  root_ = co_await unwrap(Edge::attach(*node_, Role::root, all, "test"));
}

Task<> TrackedNode::add_store() {
  if (node_->tracking()) co_return;
  node_->set_tracking(co_await tracking::TrackingStore::create(*node_, options(), disk_.can_mark));
}

Task<> TrackedNode::close() {
  root_.reset();
  co_await graph_.close_all();
}

Task<> TrackedLoad::prepare(SimProcess& process) {
  world_ = &process.backend().world();
  random_.emplace(process.backend().random());
  world_->disk().make_directory("/d");
  const Content zeroes(disk_.size);
  world_->disk().import_file(image, zeroes);
  const std::string boot = "this boot\n";
  const Bytes bytes = as_bytes(boot);
  const Content id(bytes.begin(), bytes.end());
  world_->disk().import_file("/proc/sys/kernel/random/boot_id", id);
  co_await session(process, 4);
}

Task<> TrackedLoad::run(SimProcess& process) {
  if (disk_.store_fails) break_store(process);
  co_await session(process, disk_.steps);
  co_await session(process, disk_.steps / 2);
}

void TrackedLoad::break_store(SimProcess& process) {
  SimFault fault;
  fault.path = store_path;
  fault.skip = random_->below(60);
  fault.count = 1 + random_->below(4);
  fault.os_errno = random_->chance(1, 2) ? EIO : ENOSPC;
  const IoOp::Kind kinds[] = {IoOp::Kind::write, IoOp::Kind::write, IoOp::Kind::sync, IoOp::Kind::unlink};
  fault.kind = kinds[random_->below(std::size(kinds) - 1)];
  process.backend().world().faults().add(fault);
}

// The restarted daemon: works on, and dies or ends well.
Task<> TrackedLoad::recover(SimProcess& process) {
  limit_ = max_disk_size;
  TrackedNode disk(process, disk_);
  co_await disk.open();
  const Result<> right = co_await check(disk).result();
  const Result<> worked = co_await work(disk, 3).result();
  if (random_->chance(1, 2)) process.backend().kill();
  const Result<> closed = co_await disk.close().result();
  store_failed_ = store_failed_ || disk.store_failed();
  co_await unwrap(right);
  if (!process.backend().alive()) co_return;
  co_await unwrap(worked);
  co_await unwrap(closed);
}

Task<> TrackedLoad::verify(SimProcess& process) {
  TrackedNode disk(process, disk_);
  co_await disk.open();
  const Result<> right = co_await check(disk).result();
  co_await disk.close();
  co_await unwrap(right);
  // After a clean end it is the same, and nothing is suspected that was not.
  TrackedNode again(process, disk_);
  co_await again.open();
  const Result<> still = co_await check(again).result();
  co_await again.close();
  co_await unwrap(still);
}

Task<> TrackedLoad::session(SimProcess& process, int steps) {
  limit_ = max_disk_size;
  TrackedNode disk(process, disk_);
  co_await disk.open();
  const Result<> right = co_await check(disk).result();
  const Result<> worked = co_await work(disk, steps).result();
  const Result<> closed = co_await disk.close().result();
  store_failed_ = store_failed_ || disk.store_failed();
  co_await unwrap(right);
  co_await unwrap(worked);
  co_await unwrap(closed);
}

Task<> TrackedLoad::work(TrackedNode& disk, int steps) {
  auto body = [&](TaskGroup& group) -> Task<> {
    for (std::uint64_t writer = 0; writer < writers; ++writer) group.spawn(write_some(disk, writer, steps));
    group.spawn(operate(disk, steps / 3 + 1));
    co_await group.join();
  };
  co_await with_group(disk.graph().reactor(), body);
}

Task<> TrackedLoad::write_some(TrackedNode& disk, std::uint64_t writer, int steps) {
  for (int i = 0; i < steps; ++i) {
    const Result<> written = co_await write_one(disk, writer).result();
    // The disk may just have become smaller.
    if (!written && written.error().code() != Errc::out_of_range) co_await written.error();
  }
}

Task<> TrackedLoad::write_one(TrackedNode& disk, std::uint64_t writer) {
  const std::uint64_t sectors = std::min(limit_, disk.edge().size()) / sector;
  std::uint64_t at = random_->below(sectors);
  if (disk_.sequential) at = std::exchange(next_[writer], next_[writer] + 8) % sectors;
  const std::uint64_t length = disk_.sequential ? 8 : 1 + random_->below(random_->chance(1, 4) ? 40 : 9);
  const Range range{at * sector, std::min(length, sectors - at) * sector};
  if (random_->chance(1, 12)) co_return co_await disk.edge().write_zeroes(range);
  if (random_->chance(1, 12)) co_return co_await disk.edge().discard(range);
  if (random_->chance(1, 12)) co_await disk.edge().flush();
  AlignedBuffer data(range.length);
  ++stamp_;
  for (std::uint64_t i = 0; i < range.length; i += 8) store_be(data.data() + i, stamp_);
  const WriteFlags flags = random_->chance(1, 8) ? WriteFlags::fua : WriteFlags::none;
  co_await disk.edge().write(range.offset, data.bytes(), flags);
}

Task<> TrackedLoad::operate(TrackedNode& disk, int steps) {
  for (int i = 0; i < steps; ++i) co_await operate_once(disk);
}

Task<> TrackedLoad::operate_once(TrackedNode& disk) {
  static constexpr std::uint32_t granularities[] = {4096, 16384, 1024, 4096};
  const std::uint64_t which = random_->below(4);
  const std::string name = "b" + std::to_string(which);
  NodeBitmap* bitmap = disk.node().bitmaps().find(name);
  if (!bitmap) co_return co_await add(disk, name, granularities[which]);
  switch (random_->below(disk_.resize ? 7 : 6)) {
    case 0: co_return co_await clear(disk, *bitmap);
    case 1: co_return co_await clear_and_undo(disk, *bitmap);
    case 2: co_return co_await remove(disk, *bitmap);
    case 3: co_return co_await restart(disk, *bitmap);
    case 6: co_return co_await resize(disk);
    default: co_return co_await back_up(disk, *bitmap);
  }
}

TrackedLoad::Content TrackedLoad::content() const { return world_->disk().export_file(image); }

// As others go on.
Task<> TrackedLoad::dally(TrackedNode& disk) {
  co_await disk.graph().reactor().sleep(std::chrono::microseconds(random_->below(3000)));
}

// What a command reports when its change is durable.
Task<> TrackedLoad::acknowledge(TrackedNode& disk, std::string name) {
  const Result<> saved = co_await disk.store()->save().result();
  if (!saved && !disk_.store_fails) co_await saved.error();
  if (!saved) co_return;
  Known& known = known_[name];
  known.told = true;
  if (!known.points.empty()) known.points.erase(known.points.begin(), known.points.end() - 1);
}

Task<> TrackedLoad::add(TrackedNode& disk, std::string name, std::uint32_t granularity) {
  const Result<> made = co_await disk.add_store().result();
  if (!made && disk_.store_fails) co_return;
  co_await unwrap(made);
  NodeBitmap* bitmap = nullptr;
  {
    const auto guard = co_await disk.graph().drain(disk.node());
    known_[name] = {};
    known_[name].points.push_back(content());
    bitmap = co_await unwrap(disk.node().bitmaps().add(name, disk.node().size(), granularity));
    bitmap->set_persistent(true);
  }
  co_await acknowledge(disk, name);
}

Task<> TrackedLoad::clear(TrackedNode& disk, NodeBitmap& bitmap) {
  {
    const auto guard = co_await disk.graph().drain(disk.node());
    known_[bitmap.name()].points.push_back(content());
    (void)bitmap.clear();
    bitmap.release_kept();
  }
  co_await acknowledge(disk, bitmap.name());
}

Task<> TrackedLoad::clear_and_undo(TrackedNode& disk, NodeBitmap& bitmap) {
  DirtyBitmap old = bitmap.bits().clone();
  {
    const auto guard = co_await disk.graph().drain(disk.node());
    old = bitmap.clear();
  }
  co_await dally(disk);
  old.truncate(bitmap.bits().size());
  bitmap.bits().merge(old);
}

Task<> TrackedLoad::remove(TrackedNode& disk, NodeBitmap& bitmap) {
  const std::string name = bitmap.name();
  disk.node().bitmaps().retire(bitmap);
  co_await dally(disk);
  if (random_->chance(1, 3)) co_return disk.node().bitmaps().revive(bitmap);
  known_[name].leaving = true;
  bitmap.leave();
  const Result<> saved = co_await disk.store()->save().result();
  if (!saved && !disk_.store_fails) co_await saved.error();
  if (saved) known_.erase(name);
}

// Disabled for a while, then enabled with no bits.
Task<> TrackedLoad::restart(TrackedNode& disk, NodeBitmap& bitmap) {
  Known& known = known_[bitmap.name()];
  known.points.clear();
  bitmap.set_enabled(false);
  co_await acknowledge(disk, bitmap.name());
  co_await dally(disk);
  {
    const auto guard = co_await disk.graph().drain(disk.node());
    (void)bitmap.clear();
    bitmap.release_kept();
    bitmap.set_enabled(true);
  }
  const Content now = content();
  const Result<> saved = co_await disk.store()->save().result();
  if (!saved && !disk_.store_fails) co_await saved.error();
  if (saved) known_[bitmap.name()].points = {now};
}

Task<> TrackedLoad::back_up(TrackedNode& disk, NodeBitmap& bitmap) {
  Content now;
  {
    const auto guard = co_await disk.graph().drain(disk.node());
    now = content();
    bitmap.freeze();
  }
  co_await dally(disk);
  if (random_->chance(1, 3)) co_return bitmap.reclaim();
  bitmap.abdicate();
  known_[bitmap.name()].points.push_back(std::move(now));
  bitmap.release_kept();
  co_await acknowledge(disk, bitmap.name());
}

Task<> TrackedLoad::resize(TrackedNode& disk) {
  const std::uint64_t size = (disk_.size / 2 + random_->below(disk_.size / 2)) / sector * sector;
  limit_ = size;                          // who writes to what is being cut off has no claim
  { const auto guard = co_await disk.graph().drain(disk.node()); }
  co_await disk.edge().truncate(size);
  co_await dally(disk);
  co_await disk.edge().truncate(disk_.size - random_->below(3) * sector);
  limit_ = max_disk_size;
}

Task<> TrackedLoad::check(TrackedNode& disk) {
  for (const auto& [name, known] : known_) {
    const NodeBitmap* bitmap = disk.node().bitmaps().find(name);
    if (bitmap && known.told) co_await unwrap(check(*bitmap, known));
    if (!bitmap && known.told && !known.leaving && !store_failed_) co_await Error(Errc::corrupt, "bitmap " + name + " is gone");
  }
  // One whose making nobody was told of may be there, about no point that anybody knows.
  std::erase_if(known_, [&](const auto& entry) { return !disk.node().bitmaps().find(entry.first); });
  for (auto& [name, known] : known_) {
    if (!known.told) known.points.clear();
    known.told = true;
    known.leaving = false;
  }
}

Result<> TrackedLoad::check(const NodeBitmap& bitmap, const Known& known) const {
  if (bitmap.inconsistent()) return Error(Errc::corrupt, "bitmap " + bitmap.name() + " is inconsistent: " + bitmap.inconsistent_reason());
  if (known.points.empty() || !bitmap.enabled()) return {};
  std::optional<std::uint64_t> lost;
  for (const Content& point : known.points) {
    lost = missing(bitmap, point);
    if (!lost) return {};
  }
  return Error(Errc::corrupt, "bitmap " + bitmap.name() + " has lost the change at " + std::to_string(*lost));
}

// The first changed sector that is not dirty.
std::optional<std::uint64_t> TrackedLoad::missing(const NodeBitmap& bitmap, const Content& point) const {
  const Content now = content();
  static constexpr std::byte zeroes[sector]{};
  for (std::uint64_t at = 0; at < bitmap.bits().size(); at += sector) {
    const std::byte* old = at < point.size() ? point.data() + at : zeroes;
    const std::byte* present = at < now.size() ? now.data() + at : zeroes;
    if (std::memcmp(old, present, sector) != 0 && !bitmap.bits().test(at)) return at;
  }
  return std::nullopt;
}

}  // namespace tidemark::sim
