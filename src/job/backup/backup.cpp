#include "job/backup/backup.hpp"

#include <algorithm>

#include "block/status.hpp"
#include "io/visit.hpp"
#include "job/disk_use.hpp"
#include "job/losses.hpp"
#include "job/patient_drain.hpp"

namespace tidemark {
namespace {

using P = Permissions;

constexpr Duration retry_delay = std::chrono::milliseconds(100);
constexpr Duration target_patience = std::chrono::seconds(1);  // once the backup has failed

// Whether `node` is `below` or stands on it.
bool reaches(const BlockNode& node, const BlockNode& below) {
  if (&node == &below) return true;
  for (const Edge* edge : node.driver().edges())
    if (reaches(edge->node(), below)) return true;
  return false;
}

// Null when that is gone: who shares a bitmap does not keep its node.
BlockNode* owner_of(const NodeBitmap& bitmap, const Graph& graph) {
  for (const auto& node : graph.nodes())
    if (node->bitmaps().find(bitmap.name()) == &bitmap) return node.get();
  return nullptr;
}

}  // namespace

Task<std::shared_ptr<NodeBitmap>> BackupJob::check(BackupOptions& options) {
  NodeBitmap* bitmap = co_await unwrap(check_backup(options));
  if (!bitmap) co_return nullptr;
  co_return bitmap->shared_from_this();
}

Task<ManagedJob*> BackupJob::create(JobManager& jobs, BackupOptions options) {
  Reactor& here = jobs.reactor();
  Reactor& home = options.source->reactor();
  std::shared_ptr<NodeBitmap> bitmap = co_await visit(here, home, check(options));
  co_await unwrap(jobs.check_id(options.job.id));
  co_await jobs.check_unused(*options.source, home);
  co_await check_disk_unused(jobs, *options.source, home, JobType::backup);
  co_await jobs.check_unused(*options.target, home);
  for (const BlockNode* layer : options.layers) co_await jobs.check_unused(*layer, home);
  JobOptions job_options = options.job;
  job_options.home = &home;
  auto backup = std::make_unique<BackupJob>(std::move(options), std::move(bitmap));
  BackupJob& self = *backup;
  std::unique_ptr<Job> job = std::move(backup);
  Result<> attached = co_await visit(here, home, self.attach()).result();
  Result<ManagedJob*> created = static_cast<ManagedJob*>(nullptr);
  if (attached)
    created = jobs.create(std::move(job_options), std::move(job));
  else
    created = attached.error();
  if (!created) (void)co_await visit(here, home, self.detach()).result();
  co_return co_await unwrap(std::move(created));
}

Task<> BackupJob::detach() {
  abort();
  co_await clean();
}

Task<> BackupJob::attach() {
  BlockNode& source = *options_.source;
  Graph& graph = source.graph();
  CopyBeforeWriteOptions filter;
  filter.file = &source;
  filter.target = options_.target;
  filter.on_cbw_error = options_.on_cbw_error;
  filter.min_cluster_size = options_.perf.min_cluster_size;
  filter.protect_later = true;
  filter.compress = options_.compress;
  filter.unmap = options_.unmap;
  filter.target_is_zero = options_.target_is_zero;
  // What is not copied will be below the target, or be put together with it: wherever that is, its zeroes hide what is there.
  filter.backing_later = !copies_all(options_.sync, source);
  filter.witness = options_.witness;
  filter.drop_discards = true;
  filter.share_target_writes = reaches(*options_.target, source);
  if (options_.sync != SyncMode::none && !filter.share_target_writes) filter.staging = options_.staging;
  auto driver = co_await open_copy_before_write(filter);
  CopyBeforeWrite& opened = *driver;
  NodeOptions node;
  node.name = options_.filter_node_name;
  node.read_only = source.read_only();
  auto added = co_await graph.add(std::move(node), std::move(driver)).result();
  if (!added) co_await added.error().with_context("Could not create node");
  filter_node_ = *added;
  filter_ = &opened;
  cancellation_->job = this;
  cancellation_->home = &source.reactor();
  warning_ = opened.warning();
  co_await unwrap(check_chunk());
  co_await unwrap(graph.replace(source, *filter_node_));
  auto edge = Edge::attach(*filter_node_, Role::root, {P::consistent_read, P::all}, user());
  if (!edge) co_await edge.error();
  edge_ = *std::move(edge);
  // Without a layer below, all that is there is the top.
  BlockNode* const below = options_.sync == SyncMode::top ? skip_filters(source).backing() : nullptr;
  const Permissions nothing{P::none, P::all};
  if (below) below_ = co_await unwrap(Edge::attach(*below, Role::filtered, nothing, user()));
  if (bitmap_) bitmap_->freeze();
  holds_ = frozen_ = bitmap_ != nullptr;
}

Task<> BackupJob::take_target(BlockNode& target) {
  BlockNode& before = filter_->target().node();
  co_await unwrap(filter_->target().retarget(target));
  options_.target = &target;
  co_await before.graph().release(before);
}

Result<> BackupJob::check_chunk() const {
  const auto chunk = static_cast<std::uint64_t>(options_.perf.max_chunk);
  const std::uint64_t granule = filter_->point().granule();
  if (chunk == 0 || chunk >= granule) return {};
  return Error(Errc::invalid_argument, "Required max-chunk (" + std::to_string(chunk) +
                                           ") is less than backup cluster size (" +
                                           std::to_string(granule) + ")");
}

void BackupJob::start() noexcept {
  const bool by_bitmap =
      options_.sync == SyncMode::bitmap || options_.sync == SyncMode::incremental;
  if (options_.written)
    point().protect(*options_.written);
  else if (by_bitmap && options_.layers.empty())
    point().protect(bitmap_->bits());
  else
    point().protect_all();
  point().only_above(below_.get());
  if (options_.layers.empty()) return;
  DirtyBitmap dirty = bitmap_->bits().clone();
  dirty.truncate(point().size());
  point().only_changed(*options_.layers.back(), dirty);
}

// A chain whose layers are told apart stays as it is.
bool BackupJob::uses(const BlockNode& node) const noexcept {
  if (!filter_node_) return false;
  const auto& layers = options_.layers;
  return &node == filter_node_ || &node == options_.target || std::find(layers.begin(), layers.end(), &node) != layers.end();
}

JobProgress BackupJob::progress() const noexcept {
  if (!filter_) return {};
  const std::uint64_t copied = point().copied_bytes();
  return {copied, copied + point().remaining_bytes()};
}

std::optional<JobStaging> BackupJob::staging() const noexcept {
  if (!filter_ || !filter_->stage()) return std::nullopt;
  const StageUsage usage = filter_->stage()->usage();
  return JobStaging{usage.staged, usage.spilled, usage.budget};
}

Task<> BackupJob::run(JobContext& context) {
  Reactor& reactor = filter_node_->reactor();
  CopyLimits limits;
  limits.workers = static_cast<std::uint64_t>(options_.perf.max_workers);
  limits.chunk = static_cast<std::uint64_t>(options_.perf.max_chunk);
  CopyEngine engine(reactor, point(), *edge_, filter_->target(), limits);
  Event broken(reactor);
  point().on_break([&] {
    broken.set();
    context.wake();
  });
  const auto body = [&](TaskGroup& group) -> Task<> {
    group.spawn(give_up_target(broken, group.token()));
    co_await copy_with_relief(context, engine);
  };
  const Result<> outcome = co_await with_group(reactor, body).result();
  point().on_break(nullptr);
  co_await unwrap(outcome);
}

// What relieves guests may be at a target that does not answer, until that is given up.
Task<> BackupJob::copy_with_relief(JobContext& context, CopyEngine& engine) {
  const auto body = [&](TaskGroup& group) -> Task<> {
    if (point().stage()) group.spawn(engine.relieve(group.token()));
    const Result<> outcome = co_await copy_and_flush(context, engine).result();
    // Guests are not to wait for what nobody ships any more.
    if (!outcome) point().break_with({outcome.error(), false});
    co_await unwrap(outcome);
  };
  co_await with_group(filter_node_->reactor(), body);
}

// A target that does not answer is not waited for once there is nothing to be had from it.
Task<> BackupJob::give_up_target(Event& broken, CancelToken token) {
  if (point().broken()) broken.set();
  co_await broken.wait(token);
  co_await press_target(filter_->target().node(), token);
}

Task<> BackupJob::press_target(BlockNode& target, CancelToken token) {
  for (;;) {                                     // the job's end may make new requests, a flush for one
    co_await target.reactor().sleep(target_patience, token);
    co_await target.graph().cancel_in_flight(target);
  }
}

Task<> BackupJob::copy_and_flush(JobContext& context, CopyEngine& engine) {
  Result<> outcome = co_await copy(context, engine).result();
  if (loses_bits(outcome.ok()) || outcome.ok()) {
    DirtyBitmap unfinished = point().remaining();
    Result<> flushed = co_await flush().result();
    if (flushed) unfinished_.emplace(std::move(unfinished));
    if (outcome) outcome = flushed;
  }
  if (outcome && options_.witness) outcome = co_await options_.witness->finish().result();
  co_await unwrap(outcome);
}

Task<> BackupJob::copy(JobContext& context, CopyEngine& engine) {
  co_await context.checkpoint();
  if (options_.sync == SyncMode::none) co_return co_await wait_for_guests(context);
  if (point().drops_unallocated()) co_await drop_unallocated(context);
  co_await copy_all(context, engine);
}

// Only what guests overwrite is copied, by their writes, until the user has had enough.
Task<> BackupJob::wait_for_guests(JobContext& context) {
  for (;;) {
    co_await context.checkpoint();
    if (point().broken()) co_await point().broken()->error;
    co_await context.wait();
  }
}

Task<> BackupJob::drop_unallocated(JobContext& context) {
  for (std::uint64_t at = 0; at < point().size();) {
    co_await context.checkpoint();
    const InFlight in_flight = co_await edge_->enter();
    auto next = co_await point().drop_unallocated(at).result();
    if (next) {
      at = *next;
    } else {
      Point::Failure failure{next.error(), true};
      co_await react(context, std::move(failure));
    }
  }
}

Task<> BackupJob::copy_all(JobContext& context, CopyEngine& engine) {
  for (;;) {
    co_await context.checkpoint();
    if (point().broken()) co_await point().broken()->error;
    if (!point().todo().empty()) {
      Point::Outcome failed = co_await engine.run(context);
      if (failed && !point().broken()) co_await react(context, *std::move(failed));
    } else if (!point().idle()) {
      (void)co_await point().wait_progress();  // a guest's write, or what relieves guests, is copying the last of it
    } else {
      co_return;
    }
  }
}

Task<> BackupJob::react(JobContext& context, Point::Failure failure) {
  const OnError policy = failure.reading ? options_.on_source_error : options_.on_target_error;
  const IoSide side = failure.reading ? IoSide::read : IoSide::write;
  const ErrorAction action = co_await context.failed(policy, side, failure.error);
  if (action == ErrorAction::report) co_await failure.error;
  if (action == ErrorAction::ignore) co_await context.sleep(retry_delay);
}

// The order is the one under "Losing bits" above.
Task<> BackupJob::flush() {
  if (filter_node_->graph().keeps(Rule::flush_target)) co_await filter_->target().flush();
  const InFlight in_flight = co_await edge_->enter();
  co_await filter_->file().flush();
  co_await unwrap(check_nothing_lost(*filter_node_));
}

bool BackupJob::loses_bits(bool succeeded) const noexcept {
  if (!bitmap_ || options_.bitmap_mode == BitmapMode::never) return false;
  return succeeded || options_.bitmap_mode == BitmapMode::always;
}

Task<> BackupJob::prepare() {
  if (frozen_ && loses_bits(true)) bitmap_->drop_with_group(options_.job.transaction ? options_.job.transaction->id() : 0);
  co_return;
}

void BackupJob::commit() noexcept {
  succeeded_ = true;
  if (!frozen_) return;
  frozen_ = false;
  if (loses_bits(true))
    drop_frozen_bits();
  else
    thaw();
}

void BackupJob::abort() noexcept {
  if (!frozen_) return;
  frozen_ = false;
  // bitmap-mode always: what is safely in the target is dropped even now.
  const bool gives_back = !loses_bits(false) || !unfinished_;
  if (gives_back && filter_node_->graph().keeps(Rule::reclaim_on_failure)) return thaw();
  drop_frozen_bits();
  if (unfinished_) bitmap_->bits().merge(*unfinished_);
}

void BackupJob::thaw() noexcept {
  bitmap_->reclaim();
  bitmap_->set_busy(true);         // until clean()
}

void BackupJob::drop_frozen_bits() noexcept {
  bitmap_->abdicate();
  bitmap_->set_busy(true);
  bitmap_->release_kept();
  save_ = bitmap_->persistent();
}

// On the manager's thread.
bool BackupJob::cancel(bool) noexcept {
  cancellation_->home->post_remote([cancellation = cancellation_] {
    BackupJob* job = cancellation->job;
    if (job) job->point().break_with({Error(Errc::cancelled, "Operation canceled", ECANCELED), false});
  });
  return true;
}

// When that fails the store has more bits than memory, which does no harm, and says so itself.
Task<> BackupJob::save_bitmap(Graph& graph) {
  BlockNode* const owner = owner_of(*bitmap_, graph);
  if (!owner || !owner->tracking()) co_return;
  const Permissions nothing{P::none, P::all};
  auto held = Edge::attach(*owner, Role::filtered, nothing, user());
  if (!held) co_return;                          // it is being closed, and is saved by that
  (void)co_await owner->tracking()->save().result();
  BlockNode& left = (*held)->node();
  held->reset();
  (void)co_await graph.release(left).result();
}

Task<> BackupJob::clean() {
  if (!filter_node_) co_return;
  cancellation_->job = nullptr;
  BlockNode& filter = *std::exchange(filter_node_, nullptr);
  Graph& graph = filter.graph();
  if (std::exchange(save_, false)) co_await save_bitmap(graph);
  const Point& point = filter_->point();
  BlockNode& target = filter_->target().node();
  filter_ = nullptr;
  std::unique_ptr<Edge> held = hold_filter(filter);
  edge_.reset();
  {
    // Without a stage guests may wait for a target that does not answer.
    std::optional<Graph::DrainGuard> drained;
    const auto come_to_rest = [&](TaskGroup& group) -> Task<> {
      if (point.broken()) group.spawn(press_target(target, group.token()));
      if (point.broken() && !point.idle()) co_await graph.cancel_in_flight(target);
      drained.emplace(co_await patient_drain(filter));
    };
    co_await with_group(filter.reactor(), come_to_rest);
    const Result<> removed = graph.replace(filter, filter.child(Role::filtered)->node());
    TM_ASSERT(removed.ok());  // its users fit where they came from
  }
  held.reset();
  (void)co_await graph.release(filter).result();
  if (below_) {
    BlockNode& below = below_->node();
    below_.reset();
    (void)co_await graph.release(below).result();
  }
  if (std::exchange(holds_, false)) bitmap_->set_busy(false);
  if (options_.witness) (void)co_await options_.witness->close(succeeded_).result();
}

}  // namespace tidemark
