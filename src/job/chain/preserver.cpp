#include "job/chain/preserver.hpp"

#include <algorithm>

#include "block/status.hpp"
#include "job/chain/chain_names.hpp"
#include "job/losses.hpp"
#include "job/patient_drain.hpp"

namespace tidemark {
namespace {

using P = Permissions;
using Found = PieceSource::Found;
using Kind = PieceSource::Kind;
constexpr Duration part_max = std::chrono::milliseconds(500);    // that guests may wait for at a pivot

}  // namespace

// An image right above the base, below a filter through which the job pulls.
class Preserver::Child final : PieceSource {
 public:
  Child(Preserver& preserver, BlockNode& image, bool chained) : chained_(chained), preserver_(preserver), image_(image) {}

  bool chained() const noexcept { return chained_; }
  bool is_active_top() const noexcept { return options().active && &image_ == &skip_filters(*options().top); }
  bool uses(const BlockNode& node) const noexcept { return &node == &image_ || &node == filter_node_; }
  JobProgress progress() const noexcept { return pieces_ ? pieces_->progress() : JobProgress(); }
  Result<> set_indifferent(bool indifferent) noexcept {
    Edge* const backing = image_.child(Role::backing);
    if (indifferent_ == indifferent || !backing) return {};
    auto set = backing->set_indifferent(indifferent);
    if (set) indifferent_ = indifferent;
    return set;
  }

  Task<> attach();
  Task<> pull(JobContext& context, OnError policy);
  Task<> rename();
  Task<> rename_back();
  Task<> part(Duration drain_limit = Graph::drain_max);
  Task<> let_go();
  Task<> clean();

 private:
  const PreserverOptions& options() const noexcept { return preserver_.options_; }
  Task<BackingName> name_below();
  Task<> insert_filter();
  Task<> remove_filter();
  Task<Found> look(Range wanted) override;
  Task<Outcome> copy(Range piece, Kind kind, MutableBytes buffer) override;

  const bool chained_;
  Preserver& preserver_;
  BlockNode& image_;
  CopyOnRead* filter_ = nullptr;         // the driver of filter_node_
  BlockNode* filter_node_ = nullptr;
  std::unique_ptr<Edge> kept_, edge_;    // on the image, and on the filter
  std::optional<Pieces> pieces_;
  BackingName before_;                   // what its header says, once it is changed
  BlockNode* removed_ = nullptr;         // what it stood on
  bool made_writable_ = false, indifferent_ = false;
};

Task<> Preserver::Child::attach() {
  const Permissions nothing{P::none, P::all & ~P::resize}, reading{P::consistent_read, P::all};
  kept_ = co_await unwrap(Edge::attach(image_, Role::filtered, nothing, options().user));
  if (options().full) (void)co_await name_below();
  if (image_.read_only()) {
    const Result<> writable = co_await options().access->make_writable(image_).result();
    if (!writable)
      co_await writable.error().with_context("Node '" + image_.name() + "', which stands on '" + options().base->name() +
                                             "', cannot be written to preserve it");
    made_writable_ = true;
  }
  co_await insert_filter();
  edge_ = co_await unwrap(Edge::attach(*filter_node_, Role::root, reading, options().user));
  const std::uint64_t granule = std::max<std::uint64_t>(image_.limits().opt_transfer, 64 * KiB);
  const std::uint64_t end = options().full ? image_.size() : std::min(image_.size(), options().end);
  PieceSource& source = *this;
  pieces_.emplace(source, *edge_, end, granule);
}

Task<> Preserver::Child::insert_filter() {
  Graph& graph = image_.graph();
  CopyOnReadOptions how;
  how.file = &image_;
  how.copies_reads = false;
  how.zeroes = true;
  auto driver = co_await unwrap(open_copy_on_read(how));
  CopyOnRead& opened = *driver;
  NodeOptions node;
  BlockNode* const added = co_await graph.add(std::move(node), std::move(driver));
  filter_node_ = added;
  filter_ = &opened;
  const auto drained = co_await graph.drain_within(image_);
  co_await unwrap(graph.replace(image_, *added));
}

Task<> Preserver::Child::remove_filter() {
  BlockNode& filter = *std::exchange(filter_node_, nullptr);
  filter_ = nullptr;
  Graph& graph = image_.graph();
  {
    const auto held = hold_filter(filter);
    const auto drained = co_await patient_drain(filter);
    const Result<> replaced = graph.replace(filter, image_);
    TM_ASSERT(replaced.ok());            // its users fit where they came from
  }
  (void)co_await graph.release(filter).result();
}

Task<Found> Preserver::Child::look(Range wanted) {
  const Found found = co_await preserver_.needed(*this, wanted);
  if (found.kind == Kind::nothing) co_return found;
  const Range part{wanted.offset, found.length};
  const CopyOnRead::Place place = co_await filter_->look(part);
  const Kind kind = place.data ? Kind::data : place.zero ? Kind::zeroes : Kind::nothing;
  co_return Found{place.range.length, kind};
}

// Most often it is the image that has no room.
Task<PieceSource::Outcome> Preserver::Child::copy(Range piece, Kind, MutableBytes buffer) {
  const Result<> pulled = co_await filter_->pull(piece, buffer).result();
  if (pulled) co_return std::nullopt;
  co_return Failure{pulled.error(), false};
}

// A flush that fails is not tried again: the next one may succeed without what this one has lost.
Task<> Preserver::Child::pull(JobContext& context, OnError policy) {
  co_await pieces_->finish(context, policy);
  if (image_.graph().keeps(Rule::flush_preserved)) co_await edge_->flush();
  co_await unwrap(check_nothing_lost(*filter_node_));
}

// What it is to stand on.
Task<BackingName> Preserver::Child::name_below() {
  const std::optional<std::string> as_opened;
  return backing_name(image_, preserver_.base().backing(), as_opened, options().mask_protocol, options().access);
}

Task<> Preserver::Child::rename() {
  if (filter_node_) co_await unwrap(check_nothing_lost(*filter_node_));
  BackingName name = co_await name_below();
  const ImageInfo info = co_await image_.driver().info();
  before_ = {info.backing_filename, info.backing_format};
  co_await image_.driver().write_backing_name(std::move(name.name), std::move(name.format));
}

Task<> Preserver::Child::rename_back() {
  if (before_.name.empty()) co_return;
  co_await image_.driver().write_backing_name(before_.name, before_.format);
}

Task<> Preserver::Child::part(Duration drain_limit) {
  Graph& graph = image_.graph();
  const auto drained = co_await graph.drain_within(image_, drain_limit);
  BlockNode* const stood_on = image_.backing();
  co_await unwrap(graph.set_backing(image_, preserver_.base().backing()));
  removed_ = stood_on;
  before_ = {};
}

// All that guests have written to it, too, is durable.
Task<> Preserver::Child::let_go() {
  edge_.reset();
  co_await image_.make_durable();
  co_await remove_filter();
}

// It may have lost its other users meanwhile.
Task<> Preserver::Child::clean() {
  edge_.reset();
  Graph& graph = image_.graph();
  if (filter_node_) co_await remove_filter();
  if (std::exchange(made_writable_, false)) (void)co_await options().access->make_read_only(image_).result();
  if (BlockNode* removed = std::exchange(removed_, nullptr)) (void)co_await graph.release(*removed).result();
  if (!std::exchange(kept_, nullptr)) co_return;
  (void)co_await graph.release(image_).result();
}

Preserver::Preserver(PreserverOptions options) : options_(std::move(options)) {
  const BlockNode* above = &skip_filters(*options_.top);
  while (above->backing() && &skip_filters(*above->backing()) != &base()) above = &skip_filters(*above->backing());
  for (BlockNode* image : overlays_on(base())) {
    const bool chained = image == above;
    if (chained && options_.top_stays && image == &skip_filters(*options_.top)) continue;
    auto child = std::make_unique<Child>(*this, *image, chained);
    children_.insert(chained || children_.empty() ? children_.end() : children_.begin(), std::move(child));
  }
}

Preserver::~Preserver() = default;

Preserver::Child* Preserver::chained() const noexcept {
  return !children_.empty() && children_.back()->chained() ? children_.back().get() : nullptr;
}

Task<> Preserver::attach() {
  for (auto& child : children_) co_await child->attach();
}

Result<> Preserver::let_base_change() {
  for (auto& child : children_)
    if (auto can = child->set_indifferent(true); !can) return can;
  return {};
}

void Preserver::hold_base() noexcept {
  for (auto& child : children_) (void)child->set_indifferent(false);
}

bool Preserver::uses(const BlockNode& node) const noexcept {
  return std::any_of(children_.begin(), children_.end(), [&](const auto& child) { return child->uses(node); });
}

JobProgress Preserver::progress() const noexcept {
  JobProgress all;
  for (const auto& child : children_) {
    const JobProgress one = child->progress();
    all.current += one.current;
    all.total += one.total;
  }
  return all;
}

// Where the base is about to be written: where a layer above it decides, and behind the top's end.
Task<Found> Preserver::written(Range wanted) {
  const std::uint64_t end = options_.top->size();
  if (wanted.offset >= end) {
    const bool tail = wanted.offset < options_.end;
    co_return Found{tail ? std::min(wanted.length, options_.end - wanted.offset) : wanted.length, tail ? Kind::data : Kind::nothing};
  }
  wanted.length = std::min(wanted.length, end - wanted.offset);
  const BlockStatus status = co_await block_status_above(*options_.top, &base(), wanted);
  co_return Found{status.range.length, status.allocated ? Kind::data : Kind::nothing};
}

// What would be missing in an image that stands on what is below the base instead.
Task<Found> Preserver::held_by_base(Range wanted) {
  BlockNode* const below = base().backing();
  const BlockStatus status = co_await block_status_above(base(), below, wanted);
  const bool held = status.allocated && (status.data || below);
  co_return Found{status.range.length, held ? Kind::data : Kind::nothing};
}

Task<Found> Preserver::needed(const Child& child, Range wanted) {
  Found found{wanted.length, Kind::nothing};
  if (options_.active) {
    if (child.chained() && !child.is_active_top()) found.kind = Kind::data;      // nobody knows where guests will write
  } else if (child.chained() || !options_.full) {
    found = co_await written(wanted);
  }
  if (found.kind != Kind::nothing || !options_.full) co_return found;
  wanted.length = found.length;
  co_return co_await held_by_base(wanted);
}

Task<> Preserver::run(JobContext& context, OnError policy) {
  for (auto& child : children_)
    if (!child->is_active_top()) co_await child->pull(context, policy);
  for (auto& child : children_) {
    if (!options_.full || child->chained()) continue;
    co_await child->rename();
    const Result<> parted = co_await child->part().result();
    if (parted) continue;
    (void)co_await child->rename_back().result();
    co_await parted.error();
  }
}

Task<> Preserver::run_for_top(JobContext& context, OnError policy) {
  if (Child* child = chained(); child && child->is_active_top()) co_await child->pull(context, policy);
}

Task<> Preserver::let_go_of_top() {
  if (Child* child = chained(); child && child->is_active_top()) co_await child->let_go();
}

Task<> Preserver::rename() {
  if (Child* child = chained(); child && options_.full) co_await child->rename();
}

Task<> Preserver::rename_back() {
  if (Child* child = chained()) co_await child->rename_back();
}

Task<> Preserver::part() {
  if (Child* child = chained(); child && options_.full) co_await child->part(part_max);
}

Task<> Preserver::clean() {
  hold_base();
  for (auto& child : children_) co_await child->clean();
  children_.clear();
}

}  // namespace tidemark
