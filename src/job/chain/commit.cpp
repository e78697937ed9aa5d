#include "job/chain/commit.hpp"

#include "block/status.hpp"
#include "filter/commit_top.hpp"
#include "job/create_attached.hpp"
#include "job/patient_drain.hpp"

namespace tidemark {
namespace {

using P = Permissions;

}  // namespace

Task<ManagedJob*> CommitJob::create(JobManager& jobs, CommitOptions options) {
  Reactor& home = options.disk->reactor();
  JobOptions job_options = options.job;
  return create_attached(jobs, std::move(job_options), home, std::make_unique<CommitJob>(std::move(options)));
}

Task<> CommitJob::attach() {
  const Permissions nothing{P::none, P::all};
  edge_ = co_await unwrap(Edge::attach(*options_.disk, Role::root, nothing, user()));
  // Names are asked for at the end; that there is one is to be known now.
  (void)co_await backing_name(*options_.disk, &base(), options_.backing_file, options_.mask_protocol, options_.access);
  if (base().read_only()) {
    co_await options_.access->make_writable(base());
    made_writable_ = true;
  }
  co_await insert_filter();
  if (options_.preserve != Preserve::off) co_await preserve();
  co_await block_chain();
  const std::uint64_t granule = std::max<std::uint64_t>(base().limits().opt_transfer, 64 * KiB);
  PieceSource& source = *this;
  pieces_.emplace(source, *edge_, top().size(), granule);
}

Task<> CommitJob::insert_filter() {
  Graph& graph = top().graph();
  auto driver = co_await unwrap(CommitTop::open(top()));
  NodeOptions node;
  node.name = options_.filter_node_name;
  node.read_only = true;
  filter_node_ = co_await graph.add(std::move(node), std::move(driver));
  const auto drained = co_await graph.drain_within(top());
  co_await unwrap(graph.replace(top(), *filter_node_));
}

Task<> CommitJob::preserve() {
  PreserverOptions how;
  how.top = &top();
  how.base = &base();
  how.full = options_.preserve == Preserve::full;
  how.end = written_end();
  how.mask_protocol = options_.mask_protocol;
  how.access = options_.access;
  how.user = user();
  preserver_.emplace(std::move(how));
  co_await preserver_->attach();
}

// Others' writes to the layers would be lost; but who lets nobody write to them forbids writing to the base, unless they are
// preserved.  Then they can be read, too.
Task<> CommitJob::block_chain() {
  const Permissions nothing{P::none, P::all};
  Permissions of_layer{P::none, P::all & ~P::consistent_read};
  if (preserver_) of_layer.shares = P::consistent_read | P::write_unchanged;
  const BlockNode* const written = &skip_filters(base());
  for (BlockNode* at = &top(); at != &base(); at = at->driver().is_filter() ? at->filtered() : at->backing()) {
    if (&skip_filters(*at) == written) of_layer.shares = P::all;         // a filter passes on to the base what it is asked for
    chain_.push_back(co_await unwrap(Edge::attach(*at, Role::root, of_layer, user())));
  }
  source_ = co_await unwrap(Edge::attach(top(), Role::filtered, nothing, user()));
  Permissions writing{P::consistent_read | P::write, P::consistent_read | P::write_unchanged};
  if (base().size() < top().size()) writing.uses |= P::resize;
  if (preserver_) writing.uses |= P::write_below;
  if (preserver_) co_await unwrap(preserver_->let_base_change());
  auto target = Edge::attach(base(), Role::target, writing, user());
  if (preserver_ && !target) preserver_->hold_base();
  target_ = co_await unwrap(std::move(target));
  behind_.emplace(*target_, PageCache::keep);
}

bool CommitJob::uses(const BlockNode& node) const noexcept {
  if (!filter_node_) return false;
  if (&node == filter_node_ || &node == options_.disk || &node == options_.base) return true;
  for (const BlockNode* at = node.backing(); at; at = at->filtered())
    if (at == filter_node_) return true;         // its header is to be written
  if (preserver_ && preserver_->uses(node)) return true;
  return std::any_of(chain_.begin(), chain_.end(), [&](const auto& edge) { return &edge->node() == &node; });
}

JobProgress CommitJob::progress() const noexcept {
  JobProgress all;
  if (!pieces_) return all;
  all = pieces_->progress();
  if (!preserver_) return all;
  const JobProgress before = preserver_->progress();
  return {all.current + before.current, all.total + before.total};
}

Task<PieceSource::Found> CommitJob::look(Range wanted) {
  const BlockStatus status = co_await block_status_above(top(), &base(), wanted);
  const Kind kind = !status.allocated ? Kind::nothing : status.data ? Kind::data : Kind::zeroes;
  co_return Found{status.range.length, kind};
}

Task<PieceSource::Outcome> CommitJob::copy(Range piece, Kind kind, MutableBytes buffer) {
  if (kind == Kind::data) {
    const Buffers data(buffer.first(piece.length));
    const Result<> read = co_await source_->read(piece.offset, data).result();
    if (!read) co_return Failure{read.error(), true};
    if (data.all_zero()) kind = Kind::zeroes;
  }
  Task<> writing = kind == Kind::zeroes ? target_->write_zeroes(piece, WriteFlags::may_unmap)
                                        : target_->write(piece.offset, Buffers(buffer.first(piece.length)));
  const Result<> written = co_await std::move(writing).result();
  if (!written) co_return Failure{written.error(), false};
  co_return std::nullopt;
}

Task<> CommitJob::run(JobContext& context) {
  co_await context.checkpoint();
  if (preserver_) co_await preserver_->run(context, options_.on_error);
  if (base().size() < top().size()) co_await target_->truncate(top().size());
  co_await pieces_->finish(context, options_.on_error);
}

Task<> CommitJob::prepare() {
  for (BlockNode* image : overlays_on(*filter_node_)) overlays_.push_back({image, {}});
  co_await cover_tail();
  co_await target_->flush();
  Result<> done;
  for (auto overlay = overlays_.begin(); done && overlay != overlays_.end(); ++overlay) done = co_await rename(*overlay).result();
  if (done && preserver_) done = co_await preserver_->rename().result();
  if (done) done = co_await shorten_chain().result();
  if (done && preserver_) (void)co_await preserver_->part().result();    // with either below it, it is the same
  if (done) co_return;
  for (Overlay& overlay : overlays_) (void)co_await rename_back(overlay).result();
  if (preserver_) (void)co_await preserver_->rename_back().result();
  co_await done.error();
}

// An image above that is longer than the top reads as zeroes behind it, and the base may be longer, too.
std::uint64_t CommitJob::written_end() const {
  std::uint64_t end = top().size();
  for (const BlockNode* image : overlays_on(*filter_node_)) end = std::max(end, std::min(image->size(), base().size()));
  return end;
}

Task<> CommitJob::cover_tail() {
  const std::uint64_t end = written_end();
  if (preserver_ && end > preserver_->end())
    co_await Error(Errc::busy, "an image above '" + top().name() + "' has grown meanwhile: commit again");
  const Range tail{top().size(), end - top().size()};
  if (!tail.empty()) co_await target_->write_zeroes(tail, WriteFlags::may_unmap);
}

Task<> CommitJob::rename(Overlay& overlay) {
  BlockNode& node = *overlay.node;
  BackingName name = co_await backing_name(node, &base(), options_.backing_file, options_.mask_protocol, options_.access);
  const ImageInfo info = co_await node.driver().info();
  if (node.read_only()) {
    co_await options_.access->make_writable(node);
    overlay.made_writable = true;
  }
  overlay.before = {info.backing_filename, info.backing_format};
  co_await node.driver().write_backing_name(std::move(name.name), std::move(name.format));
}

// Only where it was changed, or may have been.
Task<> CommitJob::rename_back(Overlay& overlay) {
  if (overlay.before.name.empty()) co_return;
  co_await overlay.node->driver().write_backing_name(overlay.before.name, overlay.before.format);
}

Task<> CommitJob::shorten_chain() {
  // It writes no more, and nobody else comes to write meanwhile.
  const Permissions holding{P::none, P::consistent_read | P::write_unchanged};
  co_await unwrap(target_->set_permissions(holding));
  chain_.clear();
  Graph& graph = base().graph();
  // Should it fail, the other says why.
  if (options_.access) (void)co_await options_.access->prepare_bitmaps(top(), base()).result();
  const auto drained = co_await graph.drain_within(*filter_node_);
  if (options_.access) co_await options_.access->bring_bitmaps(top(), base());
  co_await unwrap(graph.replace(*filter_node_, base()));
  shortened_ = true;
  if (options_.access) options_.access->drop_bitmaps(top());
}

// The disk may have lost its other users meanwhile.
Task<> CommitJob::clean() {
  Graph& graph = base().graph();
  for (Overlay& overlay : overlays_)
    if (std::exchange(overlay.made_writable, false)) (void)co_await options_.access->make_read_only(*overlay.node).result();
  overlays_.clear();
  const Permissions holding{P::none, P::consistent_read | P::write_unchanged};
  if (target_) TM_ASSERT(target_->set_permissions(holding).ok());        // fewer demands never conflict
  source_.reset();
  chain_.clear();
  if (preserver_) co_await preserver_->clean();
  // What is taken out with the filter may be all that keeps the base.
  const Permissions nothing{P::none, P::all};
  auto kept = Edge::attach(base(), Role::root, nothing, user());
  if (BlockNode* filter = std::exchange(filter_node_, nullptr)) {
    if (!shortened_) {
      const auto drained = co_await patient_drain(*filter);
      const Result<> replaced = graph.replace(*filter, top());
      TM_ASSERT(replaced.ok());          // its users fit where they came from
    }
    (void)co_await graph.release(*filter).result();
  }
  target_.reset();
  if (std::exchange(made_writable_, false)) (void)co_await options_.access->make_read_only(base()).result();
  if (kept) (*kept).reset();
  (void)co_await graph.release(base()).result();
  if (!std::exchange(edge_, nullptr)) co_return;
  (void)co_await graph.release(*options_.disk).result();
}

}  // namespace tidemark
