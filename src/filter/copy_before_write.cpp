#include "filter/copy_before_write.hpp"

#include <algorithm>

#include "block/graph.hpp"
#include "filter/filter_info.hpp"
#include "task/detached.hpp"

namespace tidemark {
namespace {

Result<> check_bitmap_fits(const NodeBitmap& bitmap, std::uint64_t size) {
  if (auto ok = check_bitmap(bitmap, BitmapUse::read); !ok) return ok;
  if (bitmap.bits().size() == size) return {};
  return Error(
      Errc::invalid_argument,
      "Cannot create block-copy-state: Failed to merge bitmap '" + bitmap.name() +
          "' to internal copy-bitmap: Bitmaps are of different sizes (destination size is " +
          std::to_string(size) + ", source size is " + std::to_string(bitmap.bits().size()) +
          ") and can't be merged");
}

}  // namespace

// Shared by a writer and the copy it waits for, whichever lasts longer.
struct CopyBeforeWrite::Attempt {
  Point::Outcome outcome;
  bool done = false;
  CancelSource end;  // ends the writer's wait
};

CopyBeforeWrite::CopyBeforeWrite(Reactor& reactor, const CopyBeforeWriteOptions& options,
                                 const Granule& granule, std::unique_ptr<Edge> file,
                                 std::unique_ptr<Edge> target, std::unique_ptr<Stage> stage)
    : BlockDriver(reactor),
      file_(std::move(file)),
      target_(std::move(target)),
      witness_(options.witness),
      sink_(*target_, {granule.size, options.compress, witness_.get(), options.unmap, options.target_is_zero, options.backing_later}),
      stage_(std::move(stage)),
      point_(std::make_shared<Point>(home(), *file_, sink_, granule.size, stage_.get())),
      warning_(granule.warning),
      detached_(home()),
      timeout_(options.cbw_timeout_s),
      on_cbw_error_(options.on_cbw_error),
      drop_discards_(options.drop_discards),
      share_target_writes_(options.share_target_writes) {}

std::vector<Edge*> CopyBeforeWrite::edges() const {
  std::vector<Edge*> all;
  if (file_) all.push_back(file_.get());
  if (target_) all.push_back(target_.get());
  return all;
}

// As QEMU's: once the filter is used, nobody writes to `file` past it.  The target may be written
// by others, for its backing chain may hold `file`; nobody resizes it.
Permissions CopyBeforeWrite::child_permissions(const Edge& child, Permissions node, bool) const {
  using P = Permissions;
  if (child.role() == Role::target) {
    P p{P::consistent_read | P::write, static_cast<P::Set>(P::all & ~P::resize)};
    if (!share_target_writes_) p.shares &= static_cast<P::Set>(~P::write);
    return p;
  }
  if (node == Permissions{}) return node;  // not used yet
  node.uses |= P::consistent_read;
  node.shares &= static_cast<P::Set>(~(P::write | P::resize));
  return node;
}

Task<> CopyBeforeWrite::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  const Range range{offset, from.size()};
  if (!has(flags, WriteFlags::unchanged)) co_await before_write(range);
  co_await file_->write(offset, from, flags);
}

Task<> CopyBeforeWrite::write_zeroes(Range range, WriteFlags flags) {
  if (!has(flags, WriteFlags::unchanged)) co_await before_write(range);
  co_await file_->write_zeroes(range, flags);
}

Task<> CopyBeforeWrite::discard(Range range) {
  while (!range.empty()) {
    Range part = range;
    if (drop_discards_ && !point_->broken()) {
      const auto todo = point_->todo().next_dirty_area(range.offset, range.end());
      if (todo && todo->offset == range.offset) {
        range = {todo->end(), range.end() - todo->end()};
        continue;
      }
      if (todo) part.length = todo->offset - range.offset;
    }
    co_await before_write(part);
    co_await file_->discard(part);
    range = {part.end(), range.end() - part.end()};
  }
}

Task<> CopyBeforeWrite::truncate(std::uint64_t size, Growth growth) {
  const std::uint64_t present = file_->size();
  if (size < present) {
    const Range cut{size, present - size};
    co_await before_write(cut);
  }
  co_await file_->truncate(size, growth);
}

Task<> CopyBeforeWrite::before_write(Range range) {
  if (!point_->needs_preserving(range)) co_return;
  if (!file_->node().graph().keeps(Rule::preserve_before_write)) co_return;
  Point::Outcome failed;
  if (timeout_.count() == 0)
    failed = co_await point_->preserve(range);
  else
    failed = co_await preserve_in_time(range);
  if (!failed || point_->broken()) co_return;
  if (on_cbw_error_ == OnCbwError::break_guest_write) co_await failed->error;
  point_->break_with(*std::move(failed));
}

Task<Point::Outcome> CopyBeforeWrite::preserve_in_time(Range range) {
  auto attempt = std::make_shared<Attempt>();
  run_detached(preserve_detached(attempt, range), detached_.enter());
  if (!attempt->done) (void)co_await home().reactor().sleep(timeout_, attempt->end.token()).result();
  if (attempt->done) co_return attempt->outcome;
  co_return Point::Failure{
      Error(Errc::timed_out,
            "copy before write to node '" + target_->node().name() + "': timed out", ETIMEDOUT),
      false};
}

Task<> CopyBeforeWrite::preserve_detached(std::shared_ptr<Attempt> attempt, Range range) {
  const InFlight reading(file_->node());  // its writer's own request may be over before
  const InFlight writing(target_->node());
  attempt->outcome = co_await point_->preserve(range);
  attempt->done = true;
  attempt->end.request();
}

Task<ImageInfo> CopyBeforeWrite::info() { return filter_info(file_->node(), name()); }

Task<> CopyBeforeWrite::close() {
  co_await detached_.wait_idle();
  point_.reset();
  if (stage_) co_await stage_->close();
  file_.reset();
  target_.reset();
}

Task<std::unique_ptr<CopyBeforeWrite>> open_copy_before_write(CopyBeforeWriteOptions options) {
  using P = Permissions;
  BlockNode& file = *options.file;
  BlockNode& target = *options.target;
  if (options.bitmap) co_await unwrap(check_bitmap_fits(*options.bitmap, file.size()));
  if (target.size() < file.size())
    co_await Error(Errc::invalid_argument, "copy-before-write: target node '" + target.name() +
                                               "' is smaller than node '" + file.name() + "'");
  const bool holes = co_await holes_say_zero(target);
  if (options.backing_later && !holes) options.unmap = false;
  const Granule granule = co_await choose_granule(target, options.min_cluster_size);
  auto to_file = Edge::attach(file, Role::filtered, {P::none, P::all}, "copy-before-write");
  if (!to_file) co_await to_file.error();
  auto to_target =
      Edge::attach(target, Role::target, {P::write, P::all & ~P::resize}, "copy-before-write");
  if (!to_target) co_await to_target.error();
  std::unique_ptr<Stage> stage;
  const bool stages = options.staging && granule.size <= Point::buffer_size(granule.size);
  if (stages) stage = std::make_unique<Stage>(file.reactor(), *options.staging);
  if (stages) co_await stage->open();
  auto driver = std::make_unique<CopyBeforeWrite>(file.reactor(), options, granule,
                                                  *std::move(to_file), *std::move(to_target),
                                                  std::move(stage));
  if (options.bitmap)
    driver->point().protect(options.bitmap->bits());
  else if (!options.protect_later)
    driver->point().protect_all();
  co_return driver;
}

}  // namespace tidemark
