#include "job/chain/stream.hpp"

#include "block/status.hpp"
#include "job/chain/chain_names.hpp"
#include "job/create_attached.hpp"
#include "job/losses.hpp"
#include "job/patient_drain.hpp"

namespace tidemark {
namespace {

using P = Permissions;
constexpr P::Set steady = P::consistent_read | P::write_unchanged;

}  // namespace

StreamJob::StreamJob(StreamOptions options) : options_(std::move(options)), image_(skip_filters(*options_.disk)) {}

Task<ManagedJob*> StreamJob::create(JobManager& jobs, StreamOptions options) {
  Reactor& home = options.disk->reactor();
  JobOptions job_options = options.job;
  return create_attached(jobs, std::move(job_options), home, std::make_unique<StreamJob>(std::move(options)));
}

Task<> StreamJob::attach() {
  if (image_.read_only()) {
    co_await options_.access->make_writable(image_);
    made_writable_ = true;
  }
  co_await insert_filter();
  co_await block_chain();
  const std::uint64_t granule = std::max<std::uint64_t>(image_.limits().opt_transfer, 64 * KiB);
  PieceSource& source = *this;
  const bool nothing_between = options_.bottom == &image_;
  behind_.emplace(*edge_, PageCache::keep, WriteBehind::step_beside_guests);
  pieces_.emplace(source, *edge_, nothing_between ? 0 : filter_node_->size(), granule);
}

// The image may be written, the layers below it must not change.  These edges are the job's way to say so and carry no
// requests: they are no root users.
Task<> StreamJob::block_chain() {
  const Permissions of_image{P::none, steady | P::write}, of_layer{P::none, steady};
  BlockNode* const end = options_.bottom->backing();
  for (BlockNode* at = &image_; at && at != end; at = at->driver().is_filter() ? at->filtered() : at->backing()) {
    const Permissions& permissions = at == &image_ ? of_image : of_layer;
    chain_.push_back(co_await unwrap(Edge::attach(*at, Role::filtered, permissions, user())));
  }
}

Task<> StreamJob::insert_filter() {
  BlockNode& disk = *options_.disk;
  Graph& graph = disk.graph();
  CopyOnReadOptions filter;
  filter.file = &disk;
  filter.bottom = options_.bottom;
  filter.copies_reads = false;
  auto driver = co_await unwrap(open_copy_on_read(filter));
  CopyOnRead& opened = *driver;
  NodeOptions node;
  node.name = options_.filter_node_name;
  auto added = co_await graph.add(std::move(node), std::move(driver)).result();
  if (!added) co_await added.error().with_context("Could not create node");
  filter_node_ = *added;
  filter_ = &opened;
  const auto drained = co_await graph.drain_within(disk);
  co_await unwrap(graph.replace(disk, *filter_node_));
  const Permissions reading{P::consistent_read, P::all};
  edge_ = co_await unwrap(Edge::attach(*filter_node_, Role::root, reading, user()));
}

bool StreamJob::uses(const BlockNode& node) const noexcept {
  if (&node == filter_node_) return true;
  return std::any_of(chain_.begin(), chain_.end(), [&](const auto& edge) { return &edge->node() == &node; });
}

Task<PieceSource::Found> StreamJob::look(Range wanted) {
  const CopyOnRead::Place place = co_await filter_->look(wanted);
  const Kind kind = place.data ? Kind::data : place.zero ? Kind::zeroes : Kind::nothing;
  co_return Found{place.range.length, kind};
}

Task<PieceSource::Outcome> StreamJob::copy(Range piece, Kind, MutableBytes buffer) {
  const Result<> pulled = co_await filter_->pull(piece, buffer).result();
  if (pulled) co_return std::nullopt;
  co_return Failure{pulled.error(), true};
}

Task<> StreamJob::run(JobContext& context) {
  for (;;) {
    co_await context.checkpoint();
    if (pieces_->done()) break;
    auto failed = co_await pieces_->run(context);
    if (failed) co_await react(context, *std::move(failed));
  }
  // What was left out is still needed from below.
  if (ignored_) co_await *ignored_;
}

Task<> StreamJob::react(JobContext& context, Pieces::Failed failed) {
  const ErrorAction action = co_await context.failed(options_.on_error, IoSide::read, failed.why.error);
  if (action == ErrorAction::report) co_await failed.why.error;
  if (action == ErrorAction::stop) co_return pieces_->again(failed.piece);
  if (!ignored_) ignored_ = failed.why.error;
}

Task<> StreamJob::prepare() {
  if (!image_.backing()) co_return;
  BlockNode* const base = options_.bottom->backing();
  BackingName name = co_await backing_name(image_, base, options_.backing_file, options_.mask_protocol,
                                              options_.access);
  co_await edge_->flush();
  co_await unwrap(check_nothing_lost(*filter_node_));
  const ImageInfo before = co_await image_.driver().info();
  co_await image_.driver().write_backing_name(std::move(name.name), std::move(name.format));
  const Result<> changed = co_await shorten_chain(base).result();
  if (changed) co_return;
  (void)co_await image_.driver().write_backing_name(before.backing_filename, before.backing_format).result();
  co_await changed.error();
}

Task<> StreamJob::shorten_chain(BlockNode* base) {
  const auto drained = co_await image_.graph().drain_within(image_);
  BlockNode* const below = image_.backing();
  co_await unwrap(image_.graph().set_backing(image_, base));
  if (below != base) removed_ = below;
}

// The image may have lost its other users meanwhile.
Task<> StreamJob::clean() {
  Graph& graph = image_.graph();
  edge_.reset();
  if (filter_node_) co_await remove_filter();
  if (!chain_.empty()) chain_.resize(1);
  if (BlockNode* removed = std::exchange(removed_, nullptr)) (void)co_await graph.release(*removed).result();
  if (std::exchange(made_writable_, false)) (void)co_await options_.access->make_read_only(image_).result();
  chain_.clear();
  (void)co_await graph.release(image_).result();
}

Task<> StreamJob::remove_filter() {
  BlockNode& filter = *std::exchange(filter_node_, nullptr);
  CopyOnRead& driver = *std::exchange(filter_, nullptr);
  Graph& graph = filter.graph();
  {
    const auto held = hold_filter(filter);
    const auto drained = co_await patient_drain(filter);
    const Result<> replaced = graph.replace(filter, driver.file().node());
    TM_ASSERT(replaced.ok());            // its users fit where they came from
  }
  (void)co_await graph.release(filter).result();
}

}  // namespace tidemark
