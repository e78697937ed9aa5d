#include "job/mirror/mirror.hpp"

#include "block/status.hpp"
#include "job/create_attached.hpp"
#include "job/disk_use.hpp"

namespace tidemark {
namespace {

constexpr Duration retry_delay = std::chrono::milliseconds(100);
constexpr Duration calm = std::chrono::milliseconds(20);          // so long writes are gathered, once it is ready
constexpr Duration little_long_enough = std::chrono::seconds(1);
constexpr Duration rest_after_hold = std::chrono::milliseconds(500);

}  // namespace

MirrorJob::MirrorJob(MirrorOptions options, NodeBitmap* bitmap)
    : options_(std::move(options)), bitmap_(bitmap), given_up_(options_.source->reactor()) {
  if (options_.commit) commit_.emplace(*options_.source, *options_.target, *options_.commit, user());
}

Task<NodeBitmap*> MirrorJob::check(MirrorOptions& options) { co_return co_await unwrap(check_mirror(options)); }

Task<ManagedJob*> MirrorJob::create(JobManager& jobs, MirrorOptions options) {
  Reactor& home = options.source->reactor();
  NodeBitmap* bitmap = nullptr;
  if (!options.commit) {                         // QEMU's order
    co_await jobs.check_unused(*options.target, home);
    bitmap = co_await visit(jobs.reactor(), home, check(options));
    co_await check_disk_unused(jobs, *options.source, home);
  }
  JobOptions job_options = options.job;
  auto made = std::make_unique<MirrorJob>(std::move(options), bitmap);
  co_return co_await create_attached(jobs, std::move(job_options), home, std::move(made));
}

Task<> MirrorJob::attach() {
  using P = Permissions;
  if (commit_) co_await commit_->open_base();
  co_await insert_filter();
  auto edge = Edge::attach(*filter_node_, Role::root, {P::consistent_read, P::all}, user());
  edge_ = co_await unwrap(std::move(edge));
  MirrorCopyOptions how;
  how.buffers = static_cast<std::uint64_t>(options_.buf_size);
  how.base = options_.sync == SyncMode::top ? skip_filters(*options_.source).backing() : nullptr;
  how.copied = commit_ ? Copied::above_target : how.base ? Copied::top_layer : Copied::all;
  const Permissions nothing{P::none, P::all};
  if (how.base) base_ = co_await unwrap(Edge::attach(*how.base, Role::filtered, nothing, user()));
  how.target_is_zero = options_.target_is_zero && !top().backing_later();
  copy_.emplace(options_.source->reactor(), top(), *edge_, how);
  if (bitmap_) bitmap_->freeze();
  frozen_ = bitmap_ != nullptr;
}

Task<> MirrorJob::insert_filter() {
  BlockNode& source = *options_.source;
  MirrorTopOptions above;
  above.source = &source;
  above.target = options_.target;
  above.granularity = co_await choose_mirror_granularity(options_);
  above.write_blocking = options_.copy_mode == CopyMode::write_blocking;
  above.unmap = options_.unmap;
  const bool complete = copies_all(options_.sync, source) || commit_ || skip_filters(*options_.target).backing();
  above.whole_granules = !complete;
  if (!complete) co_await expect_backing(above);
  above.commits = commit_.has_value();
  auto driver = co_await unwrap(open_mirror_top(above));
  MirrorTop& opened = *driver;
  NodeOptions node;
  node.name = options_.filter_node_name;
  node.read_only = source.read_only();
  filter_node_ = co_await graph().add(std::move(node), std::move(driver));
  filter_ = &opened;
  door_->job = this;
  filter_->listen([this] { something_happened(); });
  {
    const auto still = co_await graph().drain_within(source);
    co_await unwrap(graph().replace(source, *filter_node_));
  }
  if (!commit_) co_return;
  co_await commit_->preserve();
  co_await unwrap(commit_->hold_layers());
  co_await unwrap(top().use_target(commit_->more_uses()));
}

// What is not copied may come to be below the target before the end, or be below it where another program serves it.
Task<> MirrorJob::expect_backing(MirrorTopOptions& above) {
  above.backing_later = true;
  const bool holes = co_await holes_say_zero(*options_.target);
  if (holes) co_return;
  above.unmap = false;
  if (skip_filters(*options_.target).options().detect_zeroes == DetectZeroes::unmap) above.backing_later = false;
}

bool MirrorJob::uses(const BlockNode& node) const noexcept {
  if (commit_ && (commit_->holds(node) || commit_->uses(node))) return true;
  if (!filter_node_) return false;
  if (&node == filter_node_ || &node == options_.target) return true;
  for (const BlockNode* shown = options_.source; shown; shown = shown->filtered())
    if (&node == shown) return true;
  return false;
}

void MirrorJob::start() noexcept {
  switch (options_.sync) {
    case SyncMode::full:
    case SyncMode::top: top().dirty().set_all(); break;
    case SyncMode::none: break;
    case SyncMode::incremental:
    case SyncMode::bitmap: top().dirty().merge(bitmap_->bits()); break;
  }
}

JobProgress MirrorJob::progress() const noexcept {
  JobProgress all = copy_ && !bad_size_ ? copy_->progress() : JobProgress{};
  if (!commit_) return all;
  const JobProgress preserved = commit_->progress();
  return {all.current + preserved.current, all.total + preserved.total};
}

std::optional<bool> MirrorJob::actively_synced() const noexcept {
  if (commit_) return std::nullopt;
  return filter_ && ready_ && filter_->actively_synced();
}

void MirrorJob::set_copy_mode(CopyMode mode) noexcept {
  if (filter_) filter_->set_write_blocking(mode == CopyMode::write_blocking);
}

// On the manager's thread.

void MirrorJob::complete() noexcept { ask_to_end(Ending::pivot); }

bool MirrorJob::cancel(bool force) noexcept {
  const bool at_once = force || !ready_;
  ask_to_end(at_once ? Ending::cancel : Ending::copy);
  return at_once;
}

void MirrorJob::ask_to_end(Ending ending) noexcept {
  options_.source->reactor().post_remote([door = door_, ending] {
    if (door->job) door->job->end(ending);
  });
}

// At home.

void MirrorJob::end(Ending ending) noexcept {
  if (ending == Ending::cancel) given_up_.set();
  else if (ending_ == Ending::none) ending_ = ending;
  something_happened();
}

void MirrorJob::something_happened() noexcept {
  if (waiting_) context_->wake();
}

Task<> MirrorJob::run(JobContext& context) {
  context_ = &context;
  const auto body = [&](TaskGroup& group) -> Task<> {
    if (!commit_) group.spawn(give_up_target(group.token()));
    const Result<> outcome = co_await mirror(context).result();
    if (!outcome) {
      given_up_.set();
      co_await save_unfinished();
      top().retire();
      co_await outcome.error();
    }
  };
  const Result<> outcome = co_await with_group(options_.source->reactor(), body).result();
  context_ = nullptr;
  co_await unwrap(outcome);
}

Task<> MirrorJob::mirror(JobContext& context) {
  co_await context.checkpoint();
  if (commit_) co_await commit_->preserve_before_writing(context, options_.on_target_error);
  co_await fit_target();
  for (bool over = false; !over;) {
    co_await context.checkpoint();
    over = co_await step(context);
  }
}

// The end of a base that is longer stays as it is.
Task<> MirrorJob::fit_target() {
  const std::uint64_t wanted = options_.source->size(), there = options_.target->size();
  if (commit_ && there < wanted) co_await top().target().truncate(wanted);
  bad_size_ = !commit_ && there != wanted;
  if (bad_size_) co_await Error(Errc::invalid_argument, "Source and target image have different sizes");
}

// True when the job's work is done.
Task<bool> MirrorJob::step(JobContext& context) {
  Point::Outcome failed;
  if (auto refused = top().take_failure()) failed = Point::Failure{*std::move(refused), false};
  bool copied = false;
  (void)mark_lost();
  const auto enough = [&] { return copied = copied || copied_enough(); };
  if (!failed && !top().dirty().empty()) failed = co_await copy_->run(context, enough);
  copied = copied || top().dirty().empty();      // else it was interrupted, and is to go on already
  const bool wanted = ready_ ? ending_ != Ending::none : copied;
  const bool flushes = wanted && !failed && !context.interrupted();
  if (flushes) failed = co_await flush_target();
  const bool ends = flushes && !failed && durable_ && ready_ && little_differs();
  bool gave_up = false;
  if (ends) gave_up = co_await give_up_early(context);
  if (gave_up) co_return false;                  // guests have gone on meanwhile
  if (ends && !ends_for_itself()) co_return true;
  if (ends) failed = co_await settle();
  const bool too_slow = ends && !failed && !still_;
  if (too_slow) little_ = std::max<std::uint64_t>(little_ / 2, top().dirty().granularity());
  if (failed) {
    co_await react(context, *std::move(failed));
  } else if (flushes && durable_ && !ready_) {
    if (commit_) co_await commit_->preserve_top(context, options_.on_target_error);
    ready_ = true;
    context.set_ready();
  } else if (still_) {
    co_return true;
  } else if (ending_ != Ending::none) {
    const Duration rest = too_slow ? rest_after_hold : calm;
    co_await context.sleep(rest);
  } else if (ready_) {
    co_await rest(context);
  }
  co_return false;
}

bool MirrorJob::little_differs() const noexcept {
  const JobProgress progress = copy_->progress();
  return progress.total - progress.current <= little_;
}

// The guest's disk need not stand still for a moment before the mirror is of use.
bool MirrorJob::copied_enough() noexcept {
  if (!copy_->passed() || !little_differs()) little_since_.reset();
  else if (ending_ != Ending::none) return true;
  else if (!ready_ && !little_since_) little_since_ = options_.source->reactor().now();
  return !ready_ && little_since_ && options_.source->reactor().now() - *little_since_ >= little_long_enough;
}

// The source has something else than the target was given where a flush, of whoever, has lost it: that is copied.  True: there is some.
bool MirrorJob::mark_lost() noexcept {
  if (std::exchange(losses_, filter_node_->losses()) == filter_node_->losses()) return false;
  if (options_.sync == SyncMode::none) top().dirty().merge(top().touched());
  else top().dirty().set_all();
  return true;
}

// Until there is something to copy, and some more that comes with it.
Task<> MirrorJob::rest(JobContext& context) {
  if (top().dirty().empty()) {
    waiting_ = true;
    co_await context.wait();
    waiting_ = false;
  }
  if (ending_ == Ending::none) co_await context.sleep(calm);
}

Task<> MirrorJob::react(JobContext& context, Point::Failure failure) {
  const OnError policy = failure.reading ? options_.on_source_error : options_.on_target_error;
  const IoSide side = failure.reading ? IoSide::read : IoSide::write;
  const ErrorAction action = co_await context.failed(policy, side, failure.error);
  if (action == ErrorAction::report) co_await failure.error;
  if (action == ErrorAction::ignore) co_await context.sleep(retry_delay);
}

Task<Point::Outcome> MirrorJob::flush_target() {
  const Result<bool> flushed = co_await top().flush_target().result();
  durable_ = flushed && *flushed;
  if (flushed) co_return std::nullopt;
  co_return Point::Failure{flushed.error(), false};
}

// The guest's flushes go to the target alone once it has the source below it.
Task<Point::Outcome> MirrorJob::flush_source() {
  const Result<> flushed = co_await top().file().flush().result();
  if (flushed) co_return std::nullopt;
  co_return Point::Failure{flushed.error(), true};
}

bool MirrorJob::loses_bits() const noexcept { return frozen_ && options_.bitmap.mode != BitmapMode::never; }

void MirrorJob::commit() noexcept {
  still_.reset();
  if (!std::exchange(frozen_, false)) return;
  if (drops_) drop_frozen_bits();
  else bitmap_->reclaim();
}

void MirrorJob::abort() noexcept {
  if (!std::exchange(frozen_, false)) return;
  if (!unfinished_) return bitmap_->reclaim();
  drop_frozen_bits();
  bitmap_->bits().merge(*unfinished_);
}

void MirrorJob::drop_frozen_bits() noexcept {
  bitmap_->abdicate();
  bitmap_->release_kept();
  save_ = bitmap_->persistent();
}

}  // namespace tidemark
