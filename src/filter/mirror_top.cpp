#include "filter/mirror_top.hpp"

#include "block/graph.hpp"
#include "filter/filter_info.hpp"

namespace tidemark {
namespace {

using P = Permissions;
constexpr Permissions writing{P::write, P::write_unchanged};             // nothing is read from there

}  // namespace

// A write of the background kind.
class MirrorTop::Marked {
 public:
  Marked(MirrorTop& top, Range range) noexcept : top_(top), range_(range), unsettled_(top) {}
  Marked(const Marked&) = delete;
  ~Marked() { top_.mark(range_); }

 private:
  MirrorTop& top_;
  Range range_;
  Unsettled unsettled_;
};

MirrorTop::MirrorTop(Reactor& reactor, const MirrorTopOptions& options, std::unique_ptr<Edge> file,
                     std::unique_ptr<Edge> target)
    : BlockDriver(reactor),
      file_(std::move(file)),
      target_(std::move(target)),
      dirty_(file_->size(), options.granularity),
      touched_(file_->size(), options.granularity),
      unflushed_(file_->size(), options.granularity),
      locks_(home()),
      of_target_(options.commits ? Permissions{} : writing),
      write_blocking_(options.write_blocking),
      unmap_(options.unmap),
      whole_granules_(options.whole_granules),
      backing_later_(options.backing_later),
      commits_(options.commits) {}

Result<> MirrorTop::use_target(Permissions::Set more) {
  of_target_ = {static_cast<P::Set>(writing.uses | P::consistent_read | more), P::consistent_read | P::write_unchanged};
  if (target_->size() < size()) of_target_.uses |= P::resize;
  auto used = target_->set_permissions(of_target_);
  if (!used) of_target_ = {};
  return used;
}

// Fewer demands never conflict.
void MirrorTop::set_target_permissions(Permissions permissions) noexcept {
  of_target_ = permissions;
  TM_ASSERT(target_->set_permissions(permissions).ok());
}

void MirrorTop::retire() noexcept {
  retired_ = true;
  write_blocking_ = false;
  if (commits_) return set_target_permissions({P::none, of_target_.shares});
  // What its users want, and no more.
  Permissions users;
  for (const Edge* user : file_->parent()->parents()) {
    users.uses |= user->permissions().uses;
    users.shares &= user->permissions().shares;
  }
  TM_ASSERT(file_->set_permissions(users).ok());
  let_go_of_target();
}

std::vector<Edge*> MirrorTop::edges() const {
  std::vector<Edge*> all;
  if (file_) all.push_back(file_.get());
  if (target_) all.push_back(target_.get());
  return all;
}

// As QEMU's: nobody else uses the target, nor writes to the source past the filter once it is used.  What is below a
// source that is committed changes, which its users do not see: that is not asked for, and who lets nobody write to the source
// forbids writing to what is below.
Permissions MirrorTop::child_permissions(const Edge& child, Permissions node, bool) const {
  if (child.role() == Role::target) return of_target_;
  if (commits_) {
    node.uses &= static_cast<P::Set>(~P::consistent_read);
    node.shares = static_cast<P::Set>((node.shares | P::write) & ~P::resize);
    return node;
  }
  if (retired_ || node == Permissions{}) return node;
  node.uses |= P::consistent_read;
  node.shares &= static_cast<P::Set>(~(P::write | P::resize));
  return node;
}

void MirrorTop::mark(Range range) noexcept {
  if (retired_ || range.empty()) return;
  const bool was_clean = dirty_.empty();
  dirty_.set(range);
  if (was_clean) tell();
}

// What of a write to both the target is given.
Range MirrorTop::for_target(Range range) const noexcept {
  if (!whole_granules_) return range;
  const std::uint64_t granule = dirty_.granularity();
  const std::uint64_t from = align_up(range.offset, granule);
  const std::uint64_t to = range.end() == dirty_.size() ? range.end() : align_down(range.end(), granule);
  return from < to ? Range{from, to - from} : Range{range.offset, 0};
}

Task<> MirrorTop::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  if (retired_ || has(flags, WriteFlags::unchanged)) co_return co_await file_->write(offset, from, flags);
  if (write_blocking_ || excludes_writes_) co_return co_await to_both(offset, from, flags);
  const Marked marked(*this, {offset, from.size()});
  co_await file_->write(offset, from, flags);
}

Task<> MirrorTop::write_zeroes(Range range, WriteFlags flags) {
  if (retired_ || has(flags, WriteFlags::unchanged)) co_return co_await file_->write_zeroes(range, flags);
  if (write_blocking_ || excludes_writes_) co_return co_await zeroes_to_both(range, flags);
  const Marked marked(*this, range);
  co_await file_->write_zeroes(range, flags);
}

void MirrorTop::touch(Range range) noexcept {
  touched_.set(range);
  unflushed_.set(range);
}

// While flushes fail nothing is copied again: it would have no better luck.
Task<bool> MirrorTop::flush_target() {
  DirtyBitmap flushing = unflushed_.take();
  const Result<> flushed = co_await target_->flush().result();
  if (!flushed) {
    unflushed_.merge(flushing);
    co_await flushed.error();
  }
  if (std::exchange(losses_, target_->losses()) == target_->losses()) co_return true;
  const bool nothing = dirty_.empty();
  dirty_.merge(flushing);
  if (nothing && !dirty_.empty()) tell();
  co_return false;
}

// What a discard leaves is for the source to say, so it is copied.
Task<> MirrorTop::discard(Range range) {
  if (excludes_writes_) co_return co_await discard_alone(range);
  const Marked marked(*this, range);
  co_await file_->discard(range);
}

Task<> MirrorTop::discard_alone(Range range) {
  auto alone = locks_.hold(range, RangeLock::Mode::exclusive);
  co_await alone;
  const Marked marked(*this, range);
  co_await file_->discard(range);
}

Task<> MirrorTop::to_both(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const Range range{offset, from.size()};
  auto alone = locks_.hold(range, RangeLock::Mode::exclusive);
  co_await alone;
  const Unsettled under_way(*this);
  const Range copied = writes_both() ? for_target(range) : Range{};
  dirty_.clear(copied);
  const Result<> at_source = co_await file_->write(offset, from, flags).result();
  Result<> at_target;
  if (at_source && !copied.empty() && writes_both()) {
    touch(copied);
    at_target = co_await target_->write(copied.offset, from.slice(copied.offset - offset, copied.length)).result();
    touch(copied);                                       // a flush may have begun meanwhile
  }
  end_both(range, copied, at_source, at_target);
  co_await unwrap(at_source);
}

Task<> MirrorTop::zeroes_to_both(Range range, WriteFlags flags) {
  auto alone = locks_.hold(range, RangeLock::Mode::exclusive);
  co_await alone;
  const Unsettled under_way(*this);
  const Range copied = writes_both() ? for_target(range) : Range{};
  dirty_.clear(copied);
  const Result<> at_source = co_await file_->write_zeroes(range, flags).result();
  Result<> at_target;
  if (at_source && !copied.empty() && writes_both()) {
    touch(copied);
    const bool unmap = unmap_ && has(flags, WriteFlags::may_unmap);
    const WriteFlags how = unmap ? WriteFlags::may_unmap : WriteFlags::none;
    at_target = co_await target_->write_zeroes(copied, how).result();
    touch(copied);
  }
  end_both(range, copied, at_source, at_target);
  co_await unwrap(at_source);
}

void MirrorTop::end_both(Range range, Range copied, const Result<>& at_source, const Result<>& at_target) {
  if (!at_source || !at_target || !writes_both() || copied.empty()) {
    mark(range);
  } else {
    bytes_to_both_ += copied.length;
    mark({range.offset, copied.offset - range.offset});
    mark({copied.end(), range.end() - copied.end()});
  }
  if (at_target || retired_) return;
  if (!failure_) failure_ = at_target.error();
  tell();
}

Task<ImageInfo> MirrorTop::info() { return filter_info(file_->node(), name()); }

Task<> MirrorTop::close() {
  file_.reset();
  target_.reset();
  co_return;
}

Result<std::unique_ptr<MirrorTop>> open_mirror_top(const MirrorTopOptions& options) {
  auto file = Edge::attach(*options.source, Role::filtered, {P::none, P::all}, "mirror_top");
  if (!file) return file.error();
  auto target = Edge::attach(*options.target, Role::target, options.commits ? Permissions{} : writing, "mirror_top");
  if (!target) return target.error();
  return std::make_unique<MirrorTop>(options.source->reactor(), options, *std::move(file), *std::move(target));
}

}  // namespace tidemark
