#include "filter/copy_on_read.hpp"

#include "block/status.hpp"
#include "filter/filter_info.hpp"
#include "io/aligned.hpp"

namespace tidemark {
namespace {

constexpr std::uint64_t pull_max = 1 * MiB;      // of a user's read, at a time

}  // namespace

CopyOnRead::CopyOnRead(Reactor& reactor, std::unique_ptr<Edge> file, std::unique_ptr<Edge> bottom, const CopyOnReadOptions& options)
    : BlockDriver(reactor),
      file_(std::move(file)),
      bottom_(std::move(bottom)),
      copies_reads_(options.copies_reads),
      zeroes_(options.zeroes),
      locks_(home()) {}

std::vector<Edge*> CopyOnRead::edges() const {
  std::vector<Edge*> all;
  if (file_) all.push_back(file_.get());
  return all;
}

Permissions CopyOnRead::child_permissions(const Edge&, Permissions node, bool writable) const {
  using P = Permissions;
  if (node == P{} || !writable) return node;     // not used yet, or nothing is copied
  node.uses |= P::consistent_read | P::write_unchanged;
  node.shares &= static_cast<P::Set>(~(P::write | P::write_unchanged));
  return node;
}

Task<CopyOnRead::Place> CopyOnRead::look(Range wanted) {
  BlockNode& top = skip_filters(file_->node());
  BlockNode* const below = bottom_ ? skip_filters(bottom_->node()).backing() : nullptr;
  const BlockStatus status = co_await block_status_above(top, below, wanted);
  Place place{status.range};
  if ((!status.allocated && !zeroes_) || status.depth == 1) co_return place;
  place.data = status.data;
  // Where nothing stays below, what no layer holds reads as zeroes anyway.
  place.zero = !status.data && (below || zeroes_);
  co_return place;
}

Task<> CopyOnRead::pull(Range range, MutableBytes buffer) {
  auto alone = locks_.hold(range, RangeLock::Mode::exclusive);
  co_await alone;
  co_await pull_locked(range, buffer);
}

Task<> CopyOnRead::pull_locked(Range range, MutableBytes buffer) {
  while (!range.empty()) {
    Place place = co_await look(range);
    if (place.data) {
      place.range.length = std::min<std::uint64_t>(place.range.length, buffer.size());
      const Buffers data(buffer.first(place.range.length));
      co_await file_->read(place.range.offset, data);
      place.zero = data.all_zero();
      if (!place.zero) file_->tell(DebugEvent::cor_write);
      if (!place.zero) co_await file_->write(place.range.offset, data, WriteFlags::unchanged);
    }
    if (place.zero) file_->tell(DebugEvent::cor_write);
    if (place.zero) co_await file_->write_zeroes(place.range, WriteFlags::unchanged);
    range = {place.range.end(), range.end() - place.range.end()};
  }
}

// Whole clusters, so that no other part of them need be copied to keep them.  What cannot be copied is none the less
// read.
Task<> CopyOnRead::pull_reads(Range wanted) {
  const std::uint32_t cluster = std::max(file_->node().limits().opt_transfer, sector_size);
  wanted = wanted.widened(cluster).intersect({0, size()});
  AlignedBuffer buffer;
  while (!wanted.empty()) {
    const Place place = co_await look(wanted);
    const std::uint64_t length = std::min(place.range.length, pull_max);
    if (place.data && buffer.size() == 0) buffer = AlignedBuffer(std::min(wanted.length, pull_max));
    const Range part{wanted.offset, place.data ? std::min<std::uint64_t>(length, buffer.size()) : length};
    if (place.data || place.zero) co_await pull(part, buffer.bytes());
    wanted = {part.end(), wanted.end() - part.end()};
  }
}

Task<> CopyOnRead::read(std::uint64_t offset, Buffers into) {
  const Range wanted{offset, into.size()};
  if (copies_reads_) (void)co_await pull_reads(wanted).result();
  co_await file_->read(offset, into);
}

Task<> CopyOnRead::write(std::uint64_t offset, Buffers from, WriteFlags flags) {
  auto lock = locks_.hold({offset, from.size()}, RangeLock::Mode::shared);
  co_await lock;
  co_await file_->write(offset, from, flags);
}

Task<> CopyOnRead::write_zeroes(Range range, WriteFlags flags) {
  auto lock = locks_.hold(range, RangeLock::Mode::shared);
  co_await lock;
  co_await file_->write_zeroes(range, flags);
}

Task<> CopyOnRead::write_compressed(std::uint64_t offset, Buffers from) {
  auto lock = locks_.hold({offset, from.size()}, RangeLock::Mode::shared);
  co_await lock;
  co_await file_->write_compressed(offset, from);
}

Task<> CopyOnRead::discard(Range range) {
  auto lock = locks_.hold(range, RangeLock::Mode::shared);
  co_await lock;
  co_await file_->discard(range);
}

Task<ImageInfo> CopyOnRead::info() { return filter_info(file_->node(), name()); }

Task<> CopyOnRead::close() {
  file_.reset();
  bottom_.reset();
  co_return;
}

Result<std::unique_ptr<CopyOnRead>> open_copy_on_read(CopyOnReadOptions options) {
  BlockNode& file = *options.file;
  std::unique_ptr<Edge> bottom;
  if (options.bottom) {
    auto edge = Edge::attach(*options.bottom, Role::filtered, {}, "copy-on-read");
    if (!edge) return edge.error();
    bottom = *std::move(edge);
  }
  auto edge = Edge::attach(file, Role::filtered, {}, "copy-on-read");
  if (!edge) return edge.error();
  return std::make_unique<CopyOnRead>(file.reactor(), *std::move(edge), std::move(bottom), options);
}

}  // namespace tidemark
