#include "block/mapped_driver.hpp"

#include <algorithm>
#include <cerrno>
#include <typeinfo>

#include "block/graph.hpp"
#include "block/status.hpp"
#include "task/group.hpp"

namespace tidemark {
namespace {

// How many extents of one request are under way at a time.
constexpr int workers_max = 8;
// How often a place may be taken by another between that it is found and that it is used.
constexpr int in_vain_max = 1000;

}  // namespace

// A request in several extents: workers take the next piece in turn and move it.
struct MappedDriver::Pieces {
  Pieces(Executor& executor, Range wanted, Buffers all) : turn(executor), left(wanted), data(all) {}

  Buffers take(std::uint64_t length) {
    const Buffers piece = data.first(length);
    data = data.from(length);
    left = {left.offset + length, left.length - length};
    return piece;
  }

  Mutex turn;
  Range left;
  Buffers data;                          // of `left`
  bool failed = false;
};

Task<Extent> MappedDriver::map(Range wanted) {
  if (const auto known = map_now(wanted)) co_return *known;
  co_return co_await map_slow(wanted);
}

Task<> MappedDriver::read(std::uint64_t offset, Buffers into) {
  const auto pinned = pin();
  if (const std::uint64_t length = in_disk(offset, into.size()); length != into.size()) {
    into.from(length).fill_zero();
    into = into.first(length);
  }
  const Range wanted{offset, into.size()};
  const auto known = map_now(wanted);
  const bool direct = known && known->mapping == Mapping::data && known->range.length == wanted.length;
  if (!direct) co_return co_await read_pieces(wanted, into);
  image().tell(DebugEvent::read_aio);
  co_await storage().read(*known->host_offset, into);
}

Task<> MappedDriver::read_extent(Extent extent, Buffers into) {
  if (extent.mapping == Mapping::data) {
    image().tell(DebugEvent::read_aio);
    co_await storage().read(*extent.host_offset, into);
  } else if (extent.mapping == Mapping::compressed) {
    co_await read_compressed(extent.range.offset, into);
  } else if (extent.mapping == Mapping::below && below()) {
    image().tell(DebugEvent::read_backing_aio);
    co_await read_below(extent.range.offset, into);
  } else {
    into.fill_zero();
  }
}

// Layers that leave all of it to their own backing file, and know so from memory, are passed by: a long chain costs a
// look at each.
ChainMemo::Place MappedDriver::pass_layers(ChainMemo::Place place, Range wanted, unsigned* passed) const noexcept {
  for (;;) {
    BlockDriver& driver = place.edge->node().driver();
    if (typeid(driver) != typeid(*this)) return place;
    auto& layer = static_cast<MappedDriver&>(driver);
    if (place.edge->node().shows_old_data()) return place;       // who copies to it waits for those who read it
    if (!layer.below() || !fits(wanted.offset, wanted.length, layer.size())) return place;
    const auto known = layer.map_now(wanted);
    if (!known || known->mapping != Mapping::below || known->range.length != wanted.length) return place;
    place = {layer.below(), &place.edge->node()};
    if (passed) ++*passed;
  }
}

// From where `wanted` is read: what a piece of the disk has passed by is remembered.
ChainMemo::Place MappedDriver::layer_of(Range wanted) {
  constexpr unsigned worth_it = 4;                // layers
  const std::uint64_t piece = wanted.offset / ChainMemo::piece_bytes;
  const Range all{piece * ChainMemo::piece_bytes, ChainMemo::piece_bytes};
  ChainMemo::Place place{below(), nullptr};
  if (wanted.end() <= all.end()) {
    const std::uint64_t epoch = below()->node().graph().chain_epoch();
    if (const ChainMemo::Place known = memo_.find(piece, epoch); known.edge) return pass_layers(known, wanted);
    unsigned passed = 0;
    place = pass_layers(place, all, &passed);
    if (passed >= worth_it) memo_.remember(piece, epoch, place);
  }
  return pass_layers(place, wanted);
}

// What is below may be shorter: it reads as zeroes from its end on.  The last layer passed owns the edge that is read
// through, and stays while that is under way.
Task<> MappedDriver::read_below(std::uint64_t offset, Buffers into) {
  const Range wanted{offset, into.size()};
  const ChainMemo::Place place = layer_of(wanted);
  const auto stays = place.owner ? std::optional<InFlight>(std::in_place, *place.owner) : std::nullopt;
  const Range there = wanted.intersect({0, place.edge->size()});
  if (!there.empty()) co_await place.edge->read(offset, into.first(there.length));
  into.from(there.length).fill_zero();
}

Task<> MappedDriver::read_pieces(Range wanted, Buffers into) {
  const Extent first = co_await map(wanted);
  if (first.range.length == wanted.length) co_return co_await read_extent(first, into);
  Pieces job(home(), wanted, into);
  co_await side_by_side(job, &MappedDriver::read_worker);
}

// What a worker that fails holds is let go before the others go on: its frame ends here, not when the
// group does.
Task<> MappedDriver::until_failure(Pieces& job, Task<> worker) {
  const Result<> done = co_await std::move(worker).result();
  if (!done) job.failed = true;
  co_await unwrap(done);
}

Task<> MappedDriver::side_by_side(Pieces& job, Task<> (MappedDriver::*worker)(Pieces&)) {
  auto body = [&](TaskGroup& group) -> Task<> {
    for (int i = 0; i < workers_max && !job.left.empty() && !job.failed; ++i)
      group.spawn(until_failure(job, (this->*worker)(job)));
    co_await group.join();
  };
  co_await with_group(home(), body);
}

Task<> MappedDriver::read_worker(Pieces& job) {
  for (;;) {
    auto turn = co_await job.turn.lock();
    if (job.left.empty() || job.failed) co_return;
    const Extent extent = co_await map(job.left);
    const Buffers piece = job.take(extent.range.length);
    turn.unlock();
    co_await read_extent(extent, piece);
  }
}

// Only what is written in place pins: a piece that is given a place holds its units anyway, and must not
// wait for a place that itself keeps from being free.
Task<> MappedDriver::write(std::uint64_t offset, Buffers from, WriteFlags) {
  from = from.first(in_disk(offset, from.size()));       // the map knows no place for the rest
  const Range wanted{offset, from.size()};
  const auto place = in_place_now(wanted);
  if (!place || place->range.length != wanted.length) co_return co_await write_pieces(wanted, from);
  const auto pinned = pin();
  image().tell(DebugEvent::write_aio);
  co_await storage().write(*place->host_offset, from);
}

Task<> MappedDriver::write_pieces(Range wanted, Buffers from) {
  Pieces job(home(), wanted, from);
  if (!in_place_now(wanted)) {
    const std::unique_ptr<PendingWrite> pending = co_await prepare_write(wanted);
    if (pending) {
      const std::uint64_t length = pending->range.length;
      co_await carry_out(*pending, job.take(length));
    }
    if (job.left.empty()) co_return;
  }
  co_await side_by_side(job, &MappedDriver::write_worker);
}

Task<> MappedDriver::write_worker(Pieces& job) {
  int in_vain = 0;
  for (;;) {
    auto turn = co_await job.turn.lock();
    if (job.left.empty() || job.failed) co_return;
    if (const auto place = in_place_now(job.left)) {
      in_vain = 0;
      const auto pinned = pin();
      const Buffers piece = job.take(place->range.length);
      turn.unlock();
      image().tell(DebugEvent::write_aio);
      co_await storage().write(*place->host_offset, piece);
      continue;
    }
    const std::unique_ptr<PendingWrite> pending = co_await prepare_write(job.left);
    if (!pending && ++in_vain == in_vain_max)
      co_await Error(Errc::io, std::string(name()) + ": no place for a write at " + std::to_string(job.left.offset), EIO);
    if (!pending) continue;
    const Buffers piece = job.take(pending->range.length);
    turn.unlock();
    co_await carry_out(*pending, piece);
  }
}

Task<> MappedDriver::carry_out(PendingWrite& pending, Buffers from) {
  const bool alone = pending.before.empty() && pending.after.empty();
  Result<> written;
  if (alone) {
    image().tell(DebugEvent::write_aio);
    written = co_await storage().write(pending.host_offset, from).result();
  } else {
    written = co_await write_with_copies(pending, from).result();
  }
  if (written) written = pending.commit();
  if (!written) pending.abort();
  co_await unwrap(written);
}

Task<> MappedDriver::write_with_copies(PendingWrite& pending, Buffers from) {
  image().tell(DebugEvent::cow_read);
  AlignedBuffer before = co_await present_content(pending.before, pending.reads_as_zero);
  AlignedBuffer after = co_await present_content(pending.after, pending.reads_as_zero);
  std::vector<iovec> pieces;
  if (before.size() != 0) pieces.push_back({before.data(), before.size()});
  from.for_each([&](MutableBytes piece) { pieces.push_back({piece.data(), piece.size()}); });
  if (after.size() != 0) pieces.push_back({after.data(), after.size()});
  image().tell(DebugEvent::write_aio);
  image().tell(DebugEvent::cow_write);
  co_await storage().write(pending.host_offset - before.size(), Buffers(pieces));
}

Task<AlignedBuffer> MappedDriver::present_content(Range range, bool zero_may_be_skipped) {
  if (range.empty()) co_return AlignedBuffer();
  if (zero_may_be_skipped) {
    const bool zero = co_await is_known_zero(range);
    if (zero) co_return AlignedBuffer();
  }
  AlignedBuffer content(range.length);
  // The last unit may reach beyond the disk.
  const Range inside = range.intersect({0, size()});
  const Buffers all(content.bytes());
  if (!inside.empty()) co_await read_pieces(inside, all.first(inside.length));
  all.from(inside.length).fill_zero();
  co_return content;
}

Task<bool> MappedDriver::is_known_zero(Range range) {
  range = range.intersect({0, size()});
  while (!range.empty()) {
    Extent extent = co_await map(range);
    if (extent.mapping == Mapping::below && below()) {
      const Range there = extent.range.intersect({0, below()->size()});
      if (!there.empty()) {
        const BlockStatus status = co_await block_status_above(below()->node(), nullptr, there);
        if (!status.zero) co_return false;
        if (status.range.length < there.length) extent.range = status.range;
      }
    } else if (extent.mapping == Mapping::data || extent.mapping == Mapping::compressed) {
      co_return false;
    }
    range = {extent.range.end(), range.end() - extent.range.end()};
  }
  co_return true;
}

Task<> MappedDriver::read_compressed(std::uint64_t, Buffers) {
  co_await Error(Errc::unsupported, std::string(name()) + ": compressed data is not supported");
}

}  // namespace tidemark
