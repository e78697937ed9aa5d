// The store towards its node: admission of writes, saving, closing.  store_open.cpp, store_checkpoint.cpp
// and store_failure.cpp have the rest.
#include "tracking/store.hpp"

#include <algorithm>

#include "tracking/coverage.hpp"

namespace tidemark::tracking {

TrackingStore::TrackingStore(BlockNode& node, StoreOptions options)
    : node_(node), options_(std::move(options)), home_(node.reactor()), log_(home_, file_.file(), *this),
      zones_(options_.suspect_budget), saves_(home_), checkpoints_(home_), roots_(home_), space_(0),
      covered_(node.size(), 64 * KiB), fresh_(node.size(), 64 * KiB), work_(home_), attendant_(home_) {
  covered_.set_all();
}

TrackingStore::~TrackingStore() = default;

void TrackingStore::report(StoreReport::Kind kind, std::string message) const {
  const StoreReport report{kind, std::move(message)};
  if (told_as_.graph) told_as_.graph->tell(&Graph::Listeners::tracking, told_as_.name, report);
  else node_.graph().tell(&Graph::Listeners::tracking, node_.name(), report);
}

void TrackingStore::start() {
  Superblock shape = root_;
  shape.log_epoch = epoch_last_;
  log_.start(shape, options_.mode == Mode::power && keeps(Rule::log_durably));
  attendant_.start(attend());
}

Task<> TrackingStore::stop() {
  stopping_ = true;
  work_.notify_all();
  co_await attendant_.join();
  co_await log_.stop();
}

bool TrackingStore::admitted(Range range) noexcept {
  if (passing_) {
    if (failed() && home_.reactor().now() >= retry_at_) request_checkpoint();
    return true;
  }
  if (zones_.armed()) open_zone_ahead(range);
  return covers(covered_, range);
}

void TrackingStore::open_zone_ahead(Range write) {
  const auto tripped = zones_.trip(write, covered_.size(), covered_.granularity());
  if (!tripped || tripped->ahead.range.empty()) return;
  log_.append_unawaited(tripped->ahead.range);
  if (!tripped->ahead.tripwire.empty()) zones_.arm(tripped->ahead.tripwire);
}

// Whole granules, from the first that is not covered.
Range TrackingStore::missing(Range range) const noexcept {
  const Range disk{0, covered_.size()};
  const auto from = range.end() <= disk.end() ? covered_.next_clean(range.offset) : range.offset;
  const std::uint64_t first = std::min(from.value_or(range.offset), range.end());
  return Range{first, range.end() - first}.widened(covered_.granularity()).intersect(disk);
}

Task<> TrackingStore::admit(Range range) {
  const Range miss = missing(range);
  if (passing_ || miss.empty()) co_return;
  const bool on_its_way = log_.has(miss);       // and no sign of another writer
  const Zones::Zone zone = on_its_way ? Zones::Zone{miss, {}} : zones_.open(miss, covered_.size(), covered_.granularity());
  if (zones_.over_budget()) request_checkpoint();
  if (!keeps(Rule::wait_for_log)) co_return log_.append_unawaited(zone.range);
  const Result<> appended = co_await log_.append(zone.range).result();
  if (!appended) co_await fail(appended.error());
  else if (!zone.tripwire.empty()) zones_.arm(zone.tripwire);
}

void TrackingStore::logged(std::span<const Range> ranges, std::uint64_t epoch) noexcept {
  const Range disk{0, covered_.size()};
  for (const Range range : ranges) {
    const Range there = range.intersect(disk);
    if (there.empty()) continue;
    covered_.set(there);
    if (epoch == log_.epoch()) fresh_.set(there);
  }
}

void TrackingStore::resized(std::uint64_t size) noexcept {
  covered_.truncate(size);
  fresh_.truncate(size);
}

Task<> TrackingStore::save() { return checkpoint(Depth::lasting); }

void TrackingStore::request_checkpoint() noexcept {
  wanted_ = true;
  work_.notify_all();
}

Task<> TrackingStore::attend() {
  for (;;) {
    while (!wanted_ && !stopping_) co_await work_.wait();
    if (stopping_) co_return;
    wanted_ = false;
    const Result<> done = co_await checkpoint(Depth::plain).result();
    if (!log_.full()) continue;
    if (done) wanted_ = true;
    else log_.refuse(done.error());
  }
}

Task<> TrackingStore::before_close() {
  co_await stop();
  closing_ = true;
  saved_ = co_await checkpoint(Depth::lasting).result();
  if (root_.image.is_device && node_.driver().name() != "qcow2") {       // a disk's places are the device's
    places_ = places_over(node_.size());
    const auto written = places_written(node_.bitmaps());
    places_.insert(places_.end(), written.begin(), written.end());
  }
  told_as_ = {&node_.graph(), node_.name()};
}

// Once more, by who could not go on after the first time: it has ended, and its name may be another's by now.
Task<> TrackingStore::after_close() {
  if (!file_.file().is_open()) co_return;
  const bool of_no_use = saved_ && catalogue_.entries.empty() && catalogue_.records.empty();
  Task<> last = of_no_use ? file_.unlink() : end();
  const Result<> ended = co_await std::move(last).result();
  tell_end(ended);
  co_await file_.close();
  co_await unwrap(ended);
}

// All writes have ended: what others write from here on is told by the image.  Where that cannot be said of it, the marks of
// such writes are lost.
Task<> TrackingStore::end() {
  if (failed()) co_return;                               // which says so already
  auto image = co_await identify_durably(home_.reactor(), options_.image, options_.names, places_).result();
  Result<> ended;
  std::optional<Error> unknown;
  if (!image) unknown = image.error();
  else if (auto why = difference(root_.image, *image, false, true)) unknown = Error(Errc::not_found, options_.image + ": " + *why);
  if (!unknown) ended = co_await close_root(*std::move(image)).result();
  if (!ended) unknown = ended.error();
  if (unknown) {
    const auto guard = co_await roots_.lock();
    co_await say_lost(*unknown);
  }
  co_await unwrap(ended);
}

// Without a last checkpoint the log counts.
Task<> TrackingStore::close_root(ImageIdentity image) {
  co_await outlast(image);
  Superblock root = root_;
  root.image = std::move(image);
  root.closed = true;
  root.clean = saved_.ok();
  root.digest = root.clean ? digest_ : 0;
  root.version = ++version_;
  co_await file_.write_root(root, true);
  root_ = std::move(root);
}

// A change in the tick of the file system's clock that the last one was in would have the same time.  Most devices have none.
Task<> TrackingStore::outlast(ImageIdentity image) {
  constexpr Duration tick = std::chrono::milliseconds(10);
  const Duration since(home_.reactor().backend().wall_clock_ns() - image.change_time_ns);
  if (since < tick) co_await home_.reactor().sleep(std::min(tick, tick - since));
}

void TrackingStore::tell_end(const Result<>& ended) const {
  if (saved_ || !ended) return;                          // what has failed in the end was told
  const std::string_view then = failed() ? ": its bitmaps will be gone, or wholly dirty" : ": its log counts at the next start";
  report(StoreReport::Kind::failed, "tracking store '" + options_.path + "' was not brought up to date at the end: " +
                                        saved_.error().message() + std::string(then));
}

Task<> TrackingStore::settle() {
  { const auto guard = co_await saves_.lock(); }
  { const auto guard = co_await checkpoints_.lock(); }
  co_await log_.wait_idle();
  // What was woken meanwhile finds nothing to do and waits again.
  for (int turn = 0; turn < 4; ++turn) co_await home_.reactor().yield();
}

// A checkpoint that was asked for begins by itself once another has ended, or the log has.
bool TrackingStore::settled() const noexcept {
  return !wanted_ && !saves_.locked() && !checkpoints_.locked() && !roots_.locked() && log_.idle();
}

void TrackingStore::leave() noexcept { file_.file().leave(); }

void TrackingStore::arrive(Reactor& reactor) noexcept {
  home_.move_to(reactor);
  file_.file().arrive(reactor);
}

}  // namespace tidemark::tracking
