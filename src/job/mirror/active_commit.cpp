#include "job/mirror/active_commit.hpp"

#include <algorithm>

#include "block/graph.hpp"
#include "block/status.hpp"
#include "job/chain/chain_names.hpp"

namespace tidemark {
namespace {

using P = Permissions;
constexpr std::uint64_t area_max = 16 * MiB;     // in which guests' writes wait for one another

}  // namespace

Task<> ActiveCommit::open_base() {
  BlockNode& image = skip_filters(top_);
  const bool takes_out = options_.empty_active && stands_on_others();
  if (keeps_top() || takes_out) (void)co_await backing_name(image, &base_, options_.backing_file, options_.mask_protocol, options_.access);
  const Permissions nothing{P::none, P::all};
  kept_ = co_await unwrap(Edge::attach(base_, Role::filtered, nothing, user_));
  top_writable_ = !top_.read_only();
  if (!base_.read_only()) co_return;
  co_await options_.access->make_writable(base_);
  made_writable_ = true;
}

Task<> ActiveCommit::preserve() {
  if (!options_.preserve) co_return;
  PreserverOptions how;
  how.top = &top_;
  how.base = &base_;
  how.full = true;
  how.active = true;
  how.top_stays = keeps_top();
  how.mask_protocol = options_.mask_protocol;
  how.access = options_.access;
  how.user = user_;
  preserver_.emplace(std::move(how));
  co_await preserver_->attach();
  co_await unwrap(preserver_->let_base_change());
}

Task<> ActiveCommit::preserve_before_writing(JobContext& context, OnError policy) {
  if (preserver_) co_await preserver_->run(context, policy);
}

Task<> ActiveCommit::preserve_top(JobContext& context, OnError policy) {
  if (preserver_) co_await preserver_->run_for_top(context, policy);
}

Task<> ActiveCommit::end_preserving() {
  if (preserver_) co_await preserver_->clean();
}

// Who lets nobody write to them forbids writing to the base, unless they are preserved.  These edges carry no requests: they are
// no root users.
Result<> ActiveCommit::hold_layers() {
  const BlockNode* const image = &skip_filters(top_);
  const BlockNode* const written = &skip_filters(base_);
  bool below = false;
  for (BlockNode* at = &top_; at != &base_; at = at->driver().is_filter() ? at->filtered() : at->backing()) {
    Permissions of_layer{P::none, P::all & ~P::consistent_read};
    if (preserver_ && below) of_layer.shares = P::consistent_read | P::write_unchanged;
    else if (at == image && uses(*image)) of_layer.shares = P::all;      // what pulls into it minds who else writes
    if (&skip_filters(*at) == written) of_layer.shares = P::all;         // a filter passes on to the base what it is asked for
    below = below || at == image;
    auto edge = Edge::attach(*at, Role::filtered, of_layer, user_);
    if (!edge) return edge.error();
    layers_.push_back(*std::move(edge));
  }
  return {};
}

bool ActiveCommit::holds(const BlockNode& node) const noexcept {
  return std::any_of(layers_.begin(), layers_.end(), [&](const auto& edge) { return &edge->node() == &node; });
}

bool ActiveCommit::stands_on_others() const noexcept {
  return &skip_filters(*skip_filters(top_).backing()) != &skip_filters(base_);
}

Task<> ActiveCommit::take_out_layers() {
  if (!stands_on_others()) co_return;
  BlockNode& image = skip_filters(top_);
  BlockNode* const below = image.backing();
  if (preserver_) co_await preserver_->rename();
  BackingName name = co_await backing_name(image, &base_, options_.backing_file, options_.mask_protocol, options_.access);
  const ImageInfo before = co_await image.driver().info();
  Result<> done = co_await image.driver().write_backing_name(std::move(name.name), std::move(name.format)).result();
  if (done) done = image.graph().set_backing(image, &base_);
  if (done) {
    removed_ = below;
    co_return;
  }
  (void)co_await image.driver().write_backing_name(before.backing_filename, before.backing_format).result();
  co_await done.error();
}

Task<> ActiveCommit::give_up(MirrorTop& filter, Edge& through, std::function<bool()> enough) {
  for (std::uint64_t at = 0; at < filter.size() && !(enough && enough()); at += area_max) {
    const Range area{at, std::min(area_max, filter.size() - at)};
    co_await give_up_area(filter, through, area);
    const InFlight under_way = co_await through.enter();
    co_await options_.access->give_back(skip_filters(top_));
  }
  co_await through.flush();
}

Task<> ActiveCommit::give_up_area(MirrorTop& filter, Edge& through, Range area) {
  const DirtyBitmap& dirty = filter.dirty();
  const InFlight under_way = co_await through.enter();
  auto alone = filter.locks().hold(area, RangeLock::Mode::exclusive);
  co_await alone;
  for (auto from = dirty.next_clean(area.offset); from && *from < area.end();) {
    const std::uint64_t end = std::min(dirty.next_dirty(*from).value_or(dirty.size()), area.end());
    const Range clean{*from, end - *from};
    co_await options_.access->uncover(skip_filters(top_), clean);
    from = end < area.end() ? dirty.next_clean(end) : std::nullopt;
  }
}

Task<> ActiveCommit::prepare_pivot() {
  if (base_.size() != top_.size()) co_await unwrap(options_.access->check_size_change(top_));
  if (preserver_) co_await preserver_->let_go_of_top();
  if (preserver_) co_await preserver_->rename();
  if (!options_.empty_active) co_return;
  co_await take_out_layers();            // else they would show in it where it had hidden them
  BlockNode& image = skip_filters(top_);
  const Range all{0, image.size()};
  co_await options_.access->uncover(image, all);
  co_await image.make_durable();
}

// With either name they read the same.
Task<> ActiveCommit::undo_pivot() {
  if (preserver_) (void)co_await preserver_->rename_back().result();
}

Task<> ActiveCommit::part_from_base() {
  if (preserver_) (void)co_await preserver_->part().result();
}

Task<> ActiveCommit::close_base() {
  if (!kept_) co_return;
  if (BlockNode* removed = std::exchange(removed_, nullptr)) (void)co_await base_.graph().release(*removed).result();
  if (std::exchange(made_writable_, false) && !stays_writable_) (void)co_await options_.access->make_read_only(base_).result();
  kept_.reset();
  (void)co_await base_.graph().release(base_).result();
}

}  // namespace tidemark
